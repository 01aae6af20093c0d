#include <errno.h>
#include <stdalign.h>
#include <string.h>
#include <unistd.h>

#include "casemate/seams.h"
#include "casemate/sev_guest.h"

_Static_assert(sizeof(struct cm_snp_report_request) == 96, "struct snp_report_req");
_Static_assert(sizeof(struct cm_snp_extended_request) == 112, "struct snp_ext_report_req");
_Static_assert(sizeof(struct cm_snp_guest_request) == 32, "struct snp_guest_request_ioctl");

/* MSG_REPORT_RSP: SEV-SNP Firmware ABI, table 25. */
enum { RESPONSE_SIZE = 4000, STATUS_OFFSET = 0, SIZE_OFFSET = 4, REPORT_OFFSET = 32 };

static uint32_t little_endian_32(const unsigned char *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

int cm_snp_report(const char *device, const unsigned char report_data[CM_SNP_REPORT_DATA_SIZE], struct cm_snp_report *out) {
  memset(out, 0, sizeof *out);
  /* The host writes whole pages of certificates, and nothing beside them must be in these. */
  static _Thread_local alignas(4096) unsigned char certificates[CM_SNP_CERTIFICATES_MAX];
  unsigned char response[RESPONSE_SIZE] = {0};
  struct cm_snp_extended_request request = {
      .certificates_address = (uint64_t)(uintptr_t)certificates,
      .certificates_length = sizeof certificates,
  };
  memcpy(request.data.user_data, report_data, CM_SNP_REPORT_DATA_SIZE);
  struct cm_snp_guest_request call = {
      .message_version = 1,
      .request_address = (uint64_t)(uintptr_t)&request,
      .response_address = (uint64_t)(uintptr_t)response,
  };
  memset(certificates, 0, sizeof certificates);
  int fd = seam_sev_guest_open(device);
  if (fd < 0) return -fd;
  int error = -seam_sev_guest_extended_report(fd, &call);
  seam_close(fd);
  out->firmware_error = call.firmware_error;
  out->vmm_error = call.vmm_error;
  if (error != 0) return call.vmm_error == 2 ? EBUSY : error; /* SNP_GUEST_VMM_ERR_BUSY */
  if (call.firmware_error != 0 || call.vmm_error != 0 || little_endian_32(response + STATUS_OFFSET) != 0 ||
      little_endian_32(response + SIZE_OFFSET) != CM_SNP_REPORT_SIZE) {
    return EBADMSG;
  }
  memcpy(out->report, response + REPORT_OFFSET, sizeof out->report);
  memcpy(out->certificates, certificates, sizeof out->certificates);
  return 0;
}
