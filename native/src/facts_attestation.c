#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

/* Only that the node is there: these are root's, so EACCES shows it, too. */
static void device(struct cm_look *look, enum cm_fact_name name, const char *path) {
  int fd;
  bool recorded;
  int error = cm_open_device(look->machine, path, O_RDWR, &fd, &recorded);
  if (fd >= 0) seam_close(fd);
  if (error == 0) {
    (void)cm_say(look->report, name, CM_PRESENT, "%s opened", path);
  } else if (error == EACCES || error == EPERM || error == EBUSY) {
    struct cm_fact *fact = cm_say(look->report, name, CM_PRESENT, "%s: %s", path, cm_errno_name(error));
    cm_reason(fact, "there, and not for this user (%s)", cm_errno_name(error));
  } else if (error == ENOENT || error == ENODEV || error == ENXIO) {
    struct cm_fact *fact = cm_say(look->report, name, CM_ABSENT, "%s: %s", path, cm_errno_name(error));
    cm_reason(fact, "no device %s", path);
  } else {
    struct cm_fact *fact = cm_say(look->report, name, CM_UNKNOWN, "%s: %s", path, cm_errno_name(error));
    cm_reason(fact, "%s: %s", path, error == ENODATA ? "the recording has no files" : cm_errno_name(error));
    fact->hint = NULL;
  }
}

static const char tsm_directory[] = "/sys/kernel/config/tsm/report";

/* configfs shows the provider only in an entry (ABI configfs-tsm-report). An entry is made for the look and
 * removed again; it holds no report, so nothing is asked of the hardware. */
static void tsm(struct cm_look *look) {
  struct cm_names names;
  cm_list(look->machine, tsm_directory, &names);
  struct cm_content listed = {names.status, names.error, 0, NULL};
  if (names.status != CM_TEXT_OK) {
    struct cm_fact *fact = cm_say_no_file(look, CM_ATTEST_TSM, tsm_directory, &listed);
    if (cm_is_missing(&listed)) cm_reason(fact, "no configfs-tsm: kernel before 6.7, no provider loaded, or configfs not mounted");
    return;
  }
  char entry[160];
  bool made = false;
  if (names.held > 0) {
    (void)snprintf(entry, sizeof entry, "%s/%.63s", tsm_directory, names.names[0]);
  } else if (!look->machine->recorded_root) {
    (void)snprintf(entry, sizeof entry, "%s/casemate-probe", tsm_directory);
    int error = seam_make_directory(look->machine->root, entry);
    if (error != 0) {
      bool refused = error == -ENXIO || error == -ENODEV; /* no provider behind it */
      struct cm_fact *fact = cm_say(look->report, CM_ATTEST_TSM, refused ? CM_ABSENT : CM_UNKNOWN, "mkdir in %s: %s", tsm_directory, cm_errno_name(-error));
      cm_reason(fact, refused ? "no provider of reports" : "%s: an entry cannot be made, so the provider cannot be read", cm_errno_name(-error));
      if (!refused) fact->hint = "Run as root.";
      return;
    }
    made = true;
  } else {
    struct cm_fact *fact = cm_say(look->report, CM_ATTEST_TSM, CM_UNKNOWN, "%s: no entry", tsm_directory);
    cm_reason(fact, "the recording has no entry to read the provider from");
    return;
  }
  char path[200];
  (void)snprintf(path, sizeof path, "%s/provider", entry);
  struct cm_content content = cm_read_text(look->machine, path);
  char provider[64] = "";
  if (content.status == CM_TEXT_OK) cm_copy(provider, sizeof provider, cm_span_of(content.text));
  if (made) (void)seam_remove_directory(look->machine->root, entry);
  if (content.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_ATTEST_TSM, path, &content);
    return;
  }
  struct cm_fact *fact = cm_say(look->report, CM_ATTEST_TSM, CM_PRESENT, "%s/*/provider: %s", tsm_directory, provider);
  cm_text(fact, "%s", provider);
}

void cm_facts_attestation(struct cm_look *look) {
  device(look, CM_ATTEST_SEV_GUEST_DEVICE, "/dev/sev-guest");
  device(look, CM_ATTEST_TDX_GUEST_DEVICE, "/dev/tdx_guest");
  device(look, CM_ATTEST_SEV_HOST_DEVICE, "/dev/sev");
  tsm(look);
  struct cm_names names;
  cm_list(look->machine, "/sys/firmware/acpi/tables", &names);
  struct cm_content listed = {names.status, names.error, 0, NULL};
  bool found = false;
  for (size_t i = 0; i < names.held; i++) found = found || strcmp(names.names[i], "CCEL") == 0;
  if (names.status != CM_TEXT_OK) {
    (void)cm_say_no_file(look, CM_ATTEST_TDX_EVENT_LOG, "/sys/firmware/acpi/tables", &listed);
  } else {
    (void)cm_say(look->report, CM_ATTEST_TDX_EVENT_LOG, found ? CM_PRESENT : CM_ABSENT, "/sys/firmware/acpi/tables: %s CCEL", found ? "a" : "no");
  }
}

/* --------------------------------------------------------------------------------------------- Arm */

static bool exists(struct cm_look *look, const char *path) {
  struct cm_names names;
  cm_list(look->machine, path, &names);
  return names.status == CM_TEXT_OK || (names.status == CM_TEXT_ERROR && names.error != ENOENT && names.error != ENODATA);
}

void cm_facts_arm(struct cm_look *look) {
  struct cm_report *report = look->report;
  static const enum cm_fact_name names[] = {CM_ARM_CCA_REALM, CM_ARM_PKVM, CM_ARM_EL2, CM_ARM_MEMORY_ENCRYPTION};
  const char *architecture = cm_architecture(look->machine);
  if (strcmp(architecture, "aarch64") != 0) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
      struct cm_fact *fact = cm_say(report, names[i], CM_ABSENT, "architecture %s", architecture);
      cm_reason(fact, "a feature of Arm processors");
      fact->hint = NULL;
    }
    return;
  }
  bool graviton = cm_state_of(look, CM_EC2_VM) == CM_PRESENT;
  const struct cm_fact *tsm_fact = &report->facts[CM_ATTEST_TSM];
  bool provider = tsm_fact->state == CM_PRESENT && strcmp(tsm_fact->text, "arm_cca_guest") == 0;
  if (provider || exists(look, "/sys/devices/platform/arm-cca-dev")) {
    (void)cm_say(report, CM_ARM_CCA_REALM, CM_PRESENT, "%s", provider ? tsm_fact->evidence : "/sys/devices/platform/arm-cca-dev");
  } else if (graviton) {
    struct cm_fact *fact = cm_say(report, CM_ARM_CCA_REALM, CM_ABSENT, "%s", cm_evidence_of(look, CM_EC2_VM));
    cm_reason(fact, "not available: no Graviton type offers realms (that this is EC2 is DMI's claim)");
  } else {
    struct cm_fact *fact = cm_say(report, CM_ARM_CCA_REALM, CM_UNKNOWN, "/sys/devices/platform/arm-cca-dev: not there; TSM provider: %s", tsm_fact->state == CM_PRESENT ? tsm_fact->text : "none");
    cm_reason(fact, "cannot be seen from here: the ID registers hide RME from user space");
  }

  static const char kvm[] = "/dev/kvm";
  if (look->kvm == CM_PRESENT) {
    (void)cm_say(report, CM_ARM_EL2, CM_PRESENT, "%s", cm_evidence_of(look, CM_VIRT_KVM_USABLE));
  } else {
    struct cm_fact *fact = cm_say(report, CM_ARM_EL2, CM_UNKNOWN, "%s", cm_evidence_of(look, CM_VIRT_KVM_USABLE));
    cm_reason(fact, "cannot be seen from here: %s alone would show EL2", kvm);
  }

  struct cm_content content = cm_read_text(look->machine, "/proc/cmdline");
  if (content.status == CM_TEXT_OK && cm_has_word(content.text, "kvm-arm.mode=protected")) {
    struct cm_fact *fact = cm_say(report, CM_ARM_PKVM, look->kvm == CM_PRESENT ? CM_PRESENT : CM_UNKNOWN, "/proc/cmdline: kvm-arm.mode=protected");
    cm_reason(fact, look->kvm == CM_PRESENT ? "asked for on the command line, and KVM works" : "asked for on the command line; KVM is not usable here");
  } else if (content.status == CM_TEXT_OK && look->kvm == CM_PRESENT) {
    (void)cm_say(report, CM_ARM_PKVM, CM_ABSENT, "/proc/cmdline has no kvm-arm.mode=protected");
  } else {
    struct cm_fact *fact = cm_say(report, CM_ARM_PKVM, CM_UNKNOWN, "/proc/cmdline: %s", cm_content_problem(&content));
    cm_reason(fact, "cannot be seen from here: only a host with EL2 shows it");
  }

  struct cm_fact *fact = cm_say(report, CM_ARM_MEMORY_ENCRYPTION, CM_UNKNOWN, "%s", graviton ? cm_evidence_of(look, CM_EC2_VM) : "nothing enumerable");
  cm_reason(fact, graviton ? "cannot be seen from here; AWS says that Graviton2 and later always encrypt memory" : "cannot be seen from here");
  fact->hint = NULL;
}
