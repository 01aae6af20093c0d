/*
 * The addon: the only file that knows Node-API. It turns JavaScript values into calls of the probe and its
 * answers into JavaScript values, and throws errors with a code and a one-line message.
 */
#define NAPI_VERSION 8
#include <node_api.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "casemate/output.h"
#include "casemate/probe.h"

/* One probe at a time in a process, whatever the number of worker threads: it works in static storage. */
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static struct cm_machine machine;
static struct cm_report report;
static char output[CM_OUTPUT_MAX];

static napi_value throw_error(napi_env env, const char *code, const char *message) {
  (void)napi_throw_error(env, code, message);
  return NULL;
}

/* A string member of an object; false when it is there and not a string that fits. */
static bool string_member(napi_env env, napi_value object, const char *name, char *out, size_t size, bool *there) {
  napi_value value;
  napi_valuetype type;
  *there = false;
  if (napi_get_named_property(env, object, name, &value) != napi_ok || napi_typeof(env, value, &type) != napi_ok) return false;
  if (type == napi_undefined) return true;
  size_t length;
  if (type != napi_string || napi_get_value_string_utf8(env, value, out, size, &length) != napi_ok) return false;
  *there = true;
  return length > 0 && length + 1 < size && strlen(out) == length;
}

/* probe({cpuidFile?, root?}) → JSON text, as casemate-probe --json prints it. */
static napi_value probe(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  char cpuid_file[4096];
  char root[4096];
  struct cm_options options = {NULL, NULL};
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok) return NULL;
  if (count > 0) {
    bool there;
    if (!string_member(env, argument, "cpuidFile", cpuid_file, sizeof cpuid_file, &there)) {
      return throw_error(env, "CASEMATE_PROBE_USAGE", "cpuidFile is not a path");
    }
    if (there) options.cpuid_file = cpuid_file;
    if (!string_member(env, argument, "root", root, sizeof root, &there)) {
      return throw_error(env, "CASEMATE_PROBE_USAGE", "root is not a path");
    }
    if (there) options.root = root;
  }
  struct cm_error error;
  struct cm_sink sink = {.buffer = output, .size = sizeof output};
  (void)pthread_mutex_lock(&one_at_a_time);
  bool opened = cm_machine_open(&machine, &options, &error);
  napi_value result = NULL;
  if (opened) {
    cm_probe(&machine, &report);
    cm_write_json(&sink, &machine, &report, NULL);
    cm_machine_close(&machine);
    if (!sink.overflow && napi_create_string_utf8(env, sink.buffer, sink.used, &result) != napi_ok) result = NULL;
  }
  (void)pthread_mutex_unlock(&one_at_a_time);
  if (!opened) return throw_error(env, "CASEMATE_PROBE_RECORDING", error.message);
  if (result == NULL) return throw_error(env, "CASEMATE_PROBE_OUTPUT", "the report does not fit its buffer");
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  if (napi_create_function(env, "probe", NAPI_AUTO_LENGTH, probe, NULL, &function) != napi_ok) return NULL;
  if (napi_set_named_property(env, exports, "probe", function) != napi_ok) return NULL;
  return exports;
}
