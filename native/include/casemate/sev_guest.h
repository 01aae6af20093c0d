/*
 * A SEV-SNP report with its certificates from /dev/sev-guest, for kernels before configfs-tsm (Linux 6.7).
 * Linux Documentation/virt/coco/sev-guest.rst; include/uapi/linux/sev-guest.h.
 */
#ifndef CASEMATE_SEV_GUEST_H
#define CASEMATE_SEV_GUEST_H

#include <stddef.h>
#include <stdint.h>

enum {
  CM_SNP_REPORT_DATA_SIZE = 64,
  CM_SNP_REPORT_SIZE = 1184,
  CM_SNP_CERTIFICATES_MAX = 16384 /* SEV_FW_BLOB_MAX_SIZE: the driver takes no larger buffer */
};

struct cm_snp_report {
  unsigned char report[CM_SNP_REPORT_SIZE];
  /* The host's certificate table; zeros after what it filled. */
  unsigned char certificates[CM_SNP_CERTIFICATES_MAX];
  /* What the firmware and the host's VMM said, when the call failed. */
  uint32_t firmware_error, vmm_error;
};

/*
 * Asks for a report of VMPL 0 over report_data. 0, or a positive errno: what opening or the driver said;
 * EBADMSG when the firmware refused, or answered something that is no report; EBUSY when the host asks to come again.
 */
int cm_snp_report(const char *device, const unsigned char report_data[CM_SNP_REPORT_DATA_SIZE], struct cm_snp_report *out);

/* struct snp_report_req, snp_ext_report_req and snp_guest_request_ioctl, for C libraries without the header. */
struct cm_snp_report_request {
  uint8_t user_data[CM_SNP_REPORT_DATA_SIZE];
  uint32_t vmpl;
  uint8_t reserved[28];
};
struct cm_snp_extended_request {
  struct cm_snp_report_request data;
  uint64_t certificates_address;
  uint32_t certificates_length;
};
struct cm_snp_guest_request {
  uint8_t message_version;
  uint64_t request_address, response_address;
  uint32_t firmware_error, vmm_error;
};

/* The seams: a descriptor or a negative errno; 0 or a negative errno. */
int seam_sev_guest_open(const char *device);
int seam_sev_guest_extended_report(int fd, struct cm_snp_guest_request *request);

#endif
