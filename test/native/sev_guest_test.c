/* The driver of /dev/sev-guest, made up: it checks what it is asked and answers as the firmware would. One line a test. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "casemate/seams.h"
#include "casemate/sev_guest.h"

static struct {
  int open_error, call_error;
  uint32_t status, size, firmware_error, vmm_error;
  int open_count;
  bool asked_well;
} driver;

int seam_sev_guest_open(const char *device) {
  if (strcmp(device, "/dev/sev-guest") != 0) return -ENOENT;
  if (driver.open_error != 0) return -driver.open_error;
  driver.open_count++;
  return 7;
}

void seam_close(int fd) {
  if (fd == 7) driver.open_count--;
}

static void put_32(unsigned char *at, uint32_t value) {
  for (int i = 0; i < 4; i++) at[i] = (unsigned char)(value >> (8 * i));
}

int seam_sev_guest_extended_report(int fd, struct cm_snp_guest_request *request) {
  const struct cm_snp_extended_request *asked = (const void *)(uintptr_t)request->request_address;
  unsigned char *response = (void *)(uintptr_t)request->response_address;
  unsigned char *certificates = (void *)(uintptr_t)asked->certificates_address;
  static const uint8_t zeros[sizeof asked->data.reserved];
  driver.asked_well = fd == 7 && request->message_version == 1 && asked->data.vmpl == 0 &&
                      memcmp(asked->data.reserved, zeros, sizeof zeros) == 0 && asked->data.user_data[63] == 0x5a &&
                      asked->certificates_address % 4096 == 0 && asked->certificates_length == 16384;
  request->firmware_error = driver.firmware_error;
  request->vmm_error = driver.vmm_error;
  if (driver.call_error != 0) return -driver.call_error;
  put_32(response, driver.status);
  put_32(response + 4, driver.size);
  memset(response + 32, 0xa1, CM_SNP_REPORT_SIZE);
  memset(certificates, 0xce, 100);
  return 0;
}

static int failures;

static void result(bool good, const char *name) {
  printf("%s %s\n", good ? "ok" : "not ok", name);
  if (!good) failures++;
}

static int ask(struct cm_snp_report *report) {
  unsigned char data[CM_SNP_REPORT_DATA_SIZE];
  memset(data, 0x5a, sizeof data);
  int error = cm_snp_report("/dev/sev-guest", data, report);
  if (driver.open_count != 0) return -1;
  return error;
}

static const unsigned char nothing[CM_SNP_REPORT_SIZE];

int main(void) {
  struct cm_snp_report report;
  driver.size = CM_SNP_REPORT_SIZE;
  bool good = ask(&report) == 0 && driver.asked_well;
  result(good, "the driver is asked for an extended report of VMPL 0 over the caller's 64 bytes");
  result(report.report[0] == 0xa1 && report.report[CM_SNP_REPORT_SIZE - 1] == 0xa1 && report.certificates[99] == 0xce &&
             report.certificates[100] == 0,
         "report and certificates come back whole, zeros behind them");
  driver.status = 0x16;
  result(ask(&report) == EBADMSG && memcmp(report.report, nothing, sizeof nothing) == 0, "a status of the firmware is no report");
  driver.status = 0;
  driver.size = CM_SNP_REPORT_SIZE - 1;
  result(ask(&report) == EBADMSG, "a report of another size is none");
  driver.size = CM_SNP_REPORT_SIZE;
  driver.firmware_error = 0x1b;
  result(ask(&report) == EBADMSG && report.firmware_error == 0x1b, "an error of the firmware is said, and no report");
  driver.firmware_error = 0;
  driver.call_error = EIO;
  driver.vmm_error = 2;
  result(ask(&report) == EBUSY, "a busy host is busy");
  driver.vmm_error = 0;
  result(ask(&report) == EIO, "an error of the driver is said");
  driver.call_error = 0;
  driver.open_error = EACCES;
  result(ask(&report) == EACCES, "a device that is not for this user is said");
  return failures == 0 ? 0 : 1;
}
