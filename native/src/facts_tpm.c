#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "look.h"

/* TPM2_GetCapability(TPM_CAP_TPM_PROPERTIES, TPM_PT_MANUFACTURER, 1): TPM 2.0 part 3, 30.2. */
static const unsigned char get_manufacturer[] = {0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7a, 0, 0, 0, 6, 0, 0, 0x01, 0x05, 0, 0, 0, 1};

static uint32_t big_endian(const unsigned char *at) {
  return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* tag 2, size 4, code 4, moreData 1, capability 4, count 4, property 4, value 4. */
bool cm_tpm_manufacturer(const unsigned char *answer, size_t size, char out[5]) {
  if (size < 27 || big_endian(answer + 2) != size || big_endian(answer + 6) != 0) return false;
  if (big_endian(answer + 11) != 6 || big_endian(answer + 15) < 1 || big_endian(answer + 19) != 0x105) return false;
  /* Four ASCII characters, padded with blanks or zeros ("AMD\0", "IBM\0"). */
  size_t length = 4;
  while (length > 0 && (answer[23 + length - 1] == 0 || answer[23 + length - 1] == ' ')) length--;
  cm_copy(out, 5, (struct cm_span){(const char *)answer + 23, length});
  return length > 0;
}

static const char device[] = "/dev/tpmrm0";

int cm_tpm_ask(struct cm_machine *machine, unsigned char *answer, size_t room, size_t *size) {
  int fd;
  bool recorded;
  int error = cm_open_device(machine, device, O_RDWR, &fd, &recorded);
  if (error != 0) return error;
  if (recorded) {
    /* A recording holds the answer in hexadecimal. */
    struct cm_content content = cm_read_text(machine, device);
    if (content.status != CM_TEXT_OK || content.size % 2 != 0 || content.size / 2 > room) return EPROTO;
    for (size_t i = 0; i < content.size / 2; i++) {
      uint64_t byte;
      if (!cm_hex((struct cm_span){content.text + 2 * i, 2}, 2, &byte)) return EPROTO;
      answer[i] = (unsigned char)byte;
    }
    *size = content.size / 2;
    return 0;
  }
  ssize_t count = seam_write(fd, get_manufacturer, sizeof get_manufacturer);
  if (count == (ssize_t)sizeof get_manufacturer) {
    int ready = seam_wait_readable(fd, 2000);
    count = ready < 0 ? ready : ready == 0 ? -ETIMEDOUT : seam_read(fd, answer, room);
  } else if (count >= 0) {
    count = -EIO;
  }
  seam_close(fd);
  if (count < 0) return (int)-count;
  *size = (size_t)count;
  return 0;
}

static void manufacturer(struct cm_look *look, uint64_t version) {
  struct cm_fact *fact;
  if (version == 1) {
    fact = cm_say(look->report, CM_TPM_MANUFACTURER, CM_UNKNOWN, "TPM 1.2");
    cm_reason(fact, "a TPM 1.2, which is not asked");
    return;
  }
  unsigned char answer[64];
  size_t size = 0;
  int error = cm_tpm_ask(look->machine, answer, sizeof answer, &size);
  char name[5];
  if (error != 0) {
    fact = cm_say(look->report, CM_TPM_MANUFACTURER, CM_UNKNOWN, "%s: %s", device, cm_errno_name(error));
    cm_reason(fact, "%s: %s", device, cm_errno_name(error));
    if (error == EACCES || error == EPERM) fact->hint = "Run as root, or in the group of /dev/tpmrm0.";
  } else if (!cm_tpm_manufacturer(answer, size, name)) {
    fact = cm_say(look->report, CM_TPM_MANUFACTURER, CM_UNKNOWN, "%s: TPM2_GetCapability answered %zu bytes", device, size);
    cm_reason(fact, "the answer to TPM2_GetCapability is not one");
  } else {
    fact = cm_say(look->report, CM_TPM_MANUFACTURER, CM_PRESENT, "%s: TPM2_GetCapability TPM_PT_MANUFACTURER", device);
    cm_text(fact, "%s", name);
  }
}

void cm_facts_tpm(struct cm_look *look) {
  static const char classes[] = "/sys/class/tpm";
  static const char version_file[] = "/sys/class/tpm/tpm0/tpm_version_major";
  struct cm_names names;
  cm_list(look->machine, classes, &names);
  if (names.status != CM_TEXT_OK || names.count == 0) {
    struct cm_content listed = {names.status, names.error, 0, NULL};
    struct cm_fact *fact;
    if (names.status == CM_TEXT_OK) {
      fact = cm_say(look->report, CM_TPM_PRESENT, CM_ABSENT, "%s: no entry", classes);
    } else {
      fact = cm_say_no_file(look, CM_TPM_PRESENT, classes, &listed);
      if (cm_is_missing(&listed)) cm_reason(fact, "no %s: the kernel has no TPM support, or has not loaded it", classes);
    }
    (void)cm_say_follows(look, CM_TPM_VERSION, fact->state, CM_TPM_PRESENT);
    (void)cm_say_follows(look, CM_TPM_MANUFACTURER, fact->state, CM_TPM_PRESENT);
    return;
  }
  (void)cm_say(look->report, CM_TPM_PRESENT, CM_PRESENT, "%s: %s", classes, names.names[0]);
  struct cm_content content = cm_read_text(look->machine, version_file);
  uint64_t version;
  if (content.status != CM_TEXT_OK || !cm_decimal(cm_span_of(content.text), 9, &version)) {
    struct cm_fact *fact = cm_say_no_file(look, CM_TPM_VERSION, version_file, &content);
    if (content.status == CM_TEXT_OK) cm_reason(fact, "%s is not a number", version_file);
    version = 2;
  } else {
    struct cm_fact *fact = cm_say(look->report, CM_TPM_VERSION, CM_PRESENT, "%s: %s", version_file, content.text);
    cm_number(fact, version);
  }
  manufacturer(look, version);
}
