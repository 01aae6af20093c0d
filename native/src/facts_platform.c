#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "look.h"

#define DMI "/sys/class/dmi/id/"

/* "i-" and 8 or 17 hexadecimal digits. */
static bool is_instance_id(const char *text) {
  uint64_t ignored;
  size_t size = strlen(text);
  if (strncmp(text, "i-", 2) != 0) return false;
  if (size == 10) return cm_hex((struct cm_span){text + 2, 8}, 8, &ignored);
  return size == 19 && cm_hex((struct cm_span){text + 2, 8}, 8, &ignored) && cm_hex((struct cm_span){text + 10, 9}, 9, &ignored);
}

/* "m7a.large", "c7i.metal-24xl": a family, a dot, a size. */
static bool is_instance_type(const char *text) {
  const char *dot = strchr(text, '.');
  if (dot == NULL || dot == text || dot[1] == '\0' || strlen(text) > 40) return false;
  return strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") == strlen(text);
}

/* product_uuid starts "ec2" on Nitro and on Xen as /sys/hypervisor/uuid does; SMBIOS before 2.6 swaps the first
 * field's bytes (cloud-init DataSourceEc2). Root alone reads it. */
static bool is_ec2_uuid(const char *text) {
  char start[9] = "";
  cm_copy(start, sizeof start, cm_span_of(text));
  for (char *c = start; *c != '\0'; c++) *c = *c >= 'A' && *c <= 'Z' ? (char)(*c - 'A' + 'a') : *c;
  return strncmp(start, "ec2", 3) == 0 || (strlen(start) == 8 && start[4] == '2' && strncmp(start + 6, "ec", 2) == 0);
}

static void ec2(struct cm_look *look) {
  struct cm_report *report = look->report;
  static const enum cm_fact_name rest[] = {CM_EC2_INSTANCE_ID, CM_EC2_INSTANCE_TYPE, CM_EC2_BARE_METAL};
  struct cm_content content = cm_read_text(look->machine, DMI "sys_vendor");
  bool amazon = content.status == CM_TEXT_OK && strcmp(content.text, "Amazon EC2") == 0;
  struct cm_fact *fact;
  if (content.status == CM_TEXT_OK) {
    fact = cm_say(report, CM_EC2_VM, amazon ? CM_PRESENT : CM_ABSENT, DMI "sys_vendor: %.60s", content.text);
  } else {
    fact = cm_say_no_file(look, CM_EC2_VM, DMI "sys_vendor", &content);
  }
  if (!amazon) {
    static const char *const uuids[] = {"/sys/hypervisor/uuid", DMI "product_uuid"};
    for (size_t i = 0; i < 2 && !amazon; i++) {
      content = cm_read_text(look->machine, uuids[i]);
      amazon = content.status == CM_TEXT_OK && is_ec2_uuid(content.text);
      if (amazon) fact = cm_say(report, CM_EC2_VM, CM_PRESENT, "%s starts ec2", uuids[i]);
    }
  }
  if (fact->state == CM_PRESENT) {
    cm_reason(fact, "a claim: the host chooses what DMI says");
  } else {
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) (void)cm_say_follows(look, rest[i], fact->state, CM_EC2_VM);
    return;
  }
  static const struct {
    enum cm_fact_name name;
    const char *path;
    bool (*fits)(const char *);
    const char *shape;
  } claims[] = {
      {CM_EC2_INSTANCE_ID, DMI "board_asset_tag", is_instance_id, "i- and 8 or 17 hexadecimal digits"},
      {CM_EC2_INSTANCE_TYPE, DMI "product_name", is_instance_type, "an instance type"},
  };
  for (size_t i = 0; i < 2; i++) {
    content = cm_read_text(look->machine, claims[i].path);
    if (content.status != CM_TEXT_OK) {
      (void)cm_say_no_file(look, claims[i].name, claims[i].path, &content);
      continue;
    }
    bool fits = claims[i].fits(content.text);
    fact = cm_say(report, claims[i].name, fits ? CM_PRESENT : CM_UNKNOWN, "%s: %.60s", claims[i].path, content.text);
    if (fits) cm_text(fact, "%s", content.text);
    cm_reason(fact, fits ? "a claim: the host chooses what DMI says" : "not %s", claims[i].shape);
  }
  const struct cm_fact *type = &report->facts[CM_EC2_INSTANCE_TYPE];
  if (type->state != CM_PRESENT || look->hypervisor == CM_UNKNOWN) {
    (void)cm_say_follows(look, CM_EC2_BARE_METAL, CM_UNKNOWN, type->state != CM_PRESENT ? CM_EC2_INSTANCE_TYPE : CM_VIRT_HYPERVISOR);
    return;
  }
  const char *metal = strstr(type->text, ".metal");
  bool named = metal != NULL && (metal[6] == '\0' || metal[6] == '-');
  fact = cm_say(report, CM_EC2_BARE_METAL, named && look->hypervisor == CM_ABSENT ? CM_PRESENT : CM_ABSENT, "%s; %s", type->evidence,
                cm_evidence_of(look, CM_VIRT_HYPERVISOR));
  cm_reason(fact, "a claim: the host chooses what DMI says");
}

#define EFI_GLOBAL "8be4df61-93ca-11d2-aa0d-00e098032b8c"

/* An efivarfs file: four bytes of attributes, then the variable (efivarfs.rst); both here are one byte. */
static void efi_flag(struct cm_look *look, enum cm_fact_name name, const char *path) {
  unsigned char bytes[16];
  struct cm_content content = cm_read_bytes(look->machine, path, bytes, sizeof bytes);
  if (content.status != CM_TEXT_OK) {
    struct cm_fact *fact = cm_say_no_file(look, name, path, &content);
    if (cm_is_missing(&content)) cm_reason(fact, "no such variable, or efivarfs is not mounted");
    return;
  }
  if (content.size != 5 || bytes[4] > 1) {
    struct cm_fact *fact = cm_say(look->report, name, CM_UNKNOWN, "%s: %zu bytes", path, content.size);
    cm_reason(fact, "not four bytes of attributes and a 0 or 1");
    return;
  }
  (void)cm_say(look->report, name, bytes[4] == 1 ? CM_PRESENT : CM_ABSENT, "%s: %u", path, bytes[4]);
}

static void boot(struct cm_look *look) {
  struct cm_names names;
  cm_list(look->machine, "/sys/firmware", &names);
  bool efi = false;
  for (size_t i = 0; i < names.held; i++) efi = efi || strcmp(names.names[i], "efi") == 0;
  if (names.status != CM_TEXT_OK || names.count == 0) {
    struct cm_content listed = {names.status == CM_TEXT_OK ? CM_TEXT_EMPTY : names.status, names.error, 0, NULL};
    (void)cm_say_no_file(look, CM_BOOT_UEFI, "/sys/firmware", &listed);
    if (names.status == CM_TEXT_OK) cm_reason(&look->report->facts[CM_BOOT_UEFI], "/sys/firmware is empty: masked, as container runtimes do");
  } else {
    (void)cm_say(look->report, CM_BOOT_UEFI, efi ? CM_PRESENT : CM_ABSENT, "/sys/firmware: %s efi among %zu", efi ? "an" : "no", names.count);
  }
  if (!efi) {
    (void)cm_say_follows(look, CM_BOOT_SECURE_BOOT, cm_state_of(look, CM_BOOT_UEFI), CM_BOOT_UEFI);
    (void)cm_say_follows(look, CM_BOOT_SETUP_MODE, cm_state_of(look, CM_BOOT_UEFI), CM_BOOT_UEFI);
    return;
  }
  efi_flag(look, CM_BOOT_SECURE_BOOT, "/sys/firmware/efi/efivars/SecureBoot-" EFI_GLOBAL);
  efi_flag(look, CM_BOOT_SETUP_MODE, "/sys/firmware/efi/efivars/SetupMode-" EFI_GLOBAL);
}

void cm_facts_platform(struct cm_look *look) {
  ec2(look);
  boot(look);
}
