#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "casemate/output.h"
#include "casemate/probe.h"
#include "casemate/record.h"

enum exit_code { EXIT_RAN = 0, EXIT_NOT_PRESENT = 1, EXIT_BAD = 2 };

static const char usage[] =
    "Usage: casemate-probe [options]\n"
    "What this machine really is: processor, virtualization, memory encryption, attestation, swap.\n"
    "\n"
    "  --text            grouped text with hints (default on a terminal)\n"
    "  --json            one JSON object (default elsewhere)\n"
    "  --list            every fact id and its meaning, and nothing else (with --json: with sources)\n"
    "  --fact ID         only this fact; may be repeated\n"
    "  --require ID      exit 1 unless this fact is present; may be repeated\n"
    "  --cpuid FILE      CPUID leaves from a recording: cpuid -r, InstLatx64, Firecracker fingerprint, our own\n"
    "  --root DIR        /proc, /sys, /dev and MSRs below DIR; leaves from DIR/cpuid.txt when it is there\n"
    "  --record DIR      write such a recording of this machine, without serial numbers, addresses and ids\n"
    "  --version, --help\n"
    "\n"
    "Exit status: 0 ran, 1 a required fact is not present, 2 wrong usage or unreadable recording.\n";

enum format { FORMAT_AUTOMATIC, FORMAT_TEXT, FORMAT_JSON };

struct request {
  enum format format;
  bool list, selected;
  bool wanted[CM_FACT_COUNT], required[CM_FACT_COUNT];
  struct cm_options options;
  const char *record;
};

static int refuse(const char *what, const char *argument) {
  (void)fprintf(stderr, "casemate-probe: %s%s%s\n", what, argument != NULL ? ": " : "", argument != NULL ? argument : "");
  return EXIT_BAD;
}

/* The value of "--name VALUE" or "--name=VALUE"; NULL with *error set when there is none. */
static const char *value_of(const char *name, char **argv, int argc, int *at, bool *matched) {
  const char *argument = argv[*at];
  size_t size = strlen(name);
  *matched = strncmp(argument, name, size) == 0 && (argument[size] == '\0' || argument[size] == '=');
  if (!*matched) return NULL;
  if (argument[size] == '=') return argument + size + 1;
  if (*at + 1 >= argc) return NULL;
  *at += 1;
  return argv[*at];
}

static int add_fact(const char *option, const char *id, bool *flags) {
  int index = id == NULL ? -1 : cm_fact_find(id);
  if (id == NULL) return refuse("no fact id after it", option);
  if (index < 0) return refuse("no such fact (see --list)", id);
  flags[index] = true;
  return EXIT_RAN;
}

static int parse(int argc, char **argv, struct request *request) {
  for (int i = 1; i < argc; i++) {
    const char *argument = argv[i];
    bool matched;
    const char *value;
    if (strcmp(argument, "--text") == 0) request->format = FORMAT_TEXT;
    else if (strcmp(argument, "--json") == 0) request->format = FORMAT_JSON;
    else if (strcmp(argument, "--list") == 0) request->list = true;
    else if ((value = value_of("--fact", argv, argc, &i, &matched)), matched) {
      request->selected = true;
      int code = add_fact("--fact", value, request->wanted);
      if (code != EXIT_RAN) return code;
    } else if ((value = value_of("--require", argv, argc, &i, &matched)), matched) {
      int code = add_fact("--require", value, request->required);
      if (code != EXIT_RAN) return code;
    } else {
      static const char *const names[] = {"--cpuid", "--root", "--record"};
      const char **const places[] = {&request->options.cpuid_file, &request->options.root, &request->record};
      matched = false;
      for (size_t j = 0; j < 3 && !matched; j++) {
        value = value_of(names[j], argv, argc, &i, &matched);
        if (!matched) continue;
        if (value == NULL || value[0] == '\0') return refuse("no value after it", names[j]);
        if (*places[j] != NULL) return refuse("given twice", names[j]);
        *places[j] = value;
      }
      if (!matched) return refuse("unknown argument (see --help)", argument);
    }
  }
  return EXIT_RAN;
}

static int flush(const struct cm_sink *sink) {
  if (sink->overflow) return refuse("the report does not fit its buffer", NULL);
  size_t done = 0;
  while (done < sink->used) {
    ssize_t count = seam_write(STDOUT_FILENO, sink->buffer + done, sink->used - done);
    if (count < 0) return refuse("writing the output", strerror((int)-count));
    done += (size_t)count;
  }
  return EXIT_RAN;
}

static bool on_colour_terminal(void) {
  const char *term = getenv("TERM");
  const char *no_colour = getenv("NO_COLOR"); /* no-color.org: present and not empty */
  return isatty(STDOUT_FILENO) == 1 && term != NULL && strcmp(term, "dumb") != 0 && (no_colour == NULL || no_colour[0] == '\0');
}

int main(int argc, char **argv) {
  /* Static, not on the heap or stack: the probe allocates nothing, and 140 KiB is much for a stack. */
  static char output[CM_OUTPUT_MAX];
  static struct cm_machine machine;
  static struct cm_report report;
  static struct request request;
  struct cm_sink sink = {.buffer = output, .size = sizeof output};

  for (int i = 1; i < argc; i++) {
    bool help = strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0;
    if (!help && strcmp(argv[i], "--version") != 0) continue;
    int count = snprintf(output, sizeof output, "%s", help ? usage : "casemate-probe " CM_VERSION " (" CM_SCHEMA ")\n");
    sink.used = count < 0 ? 0 : (size_t)count;
    return flush(&sink);
  }
  int code = parse(argc, argv, &request);
  if (code != EXIT_RAN) return code;
  bool terminal = isatty(STDOUT_FILENO) == 1;
  bool json = request.format == FORMAT_JSON || (request.format == FORMAT_AUTOMATIC && !terminal);
  if (request.list) {
    json = request.format == FORMAT_JSON;
    cm_write_list(&sink, json);
    if (json && sink.used < sink.size) sink.buffer[sink.used++] = '\n';
    return flush(&sink);
  }

  struct cm_error error;
  if (!cm_machine_open(&machine, &request.options, &error)) return refuse(error.message, NULL);
  if (request.record != NULL) {
    bool recorded = cm_record(&machine, &report, request.record, &error);
    cm_machine_close(&machine);
    return recorded ? EXIT_RAN : refuse(error.message, NULL);
  }
  cm_probe(&machine, &report);
  const bool *wanted = request.selected ? request.wanted : NULL;
  if (json) {
    cm_write_json(&sink, &machine, &report, wanted);
    if (sink.used < sink.size) sink.buffer[sink.used++] = '\n';
  } else {
    cm_write_text(&sink, &machine, &report, wanted, on_colour_terminal());
  }
  cm_machine_close(&machine);
  code = flush(&sink);
  for (size_t i = 0; code != EXIT_BAD && i < CM_FACT_COUNT; i++) {
    if (!request.required[i] || report.facts[i].state == CM_PRESENT) continue;
    const char *why = report.facts[i].reason[0] != '\0' ? report.facts[i].reason : report.facts[i].evidence;
    (void)fprintf(stderr, "casemate-probe: %s is %s: %s\n", cm_fact_definitions[i].id, cm_state_word(report.facts[i].state), why);
    code = EXIT_NOT_PRESENT;
  }
  return code;
}
