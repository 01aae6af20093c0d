#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>

#include "casemate/sev_guest.h"

int seam_sev_guest_open(const char *device) {
  int fd;
  do {
    fd = open(device, O_RDWR | O_CLOEXEC | O_NOCTTY);
  } while (fd < 0 && errno == EINTR);
  return fd < 0 ? -errno : fd;
}

int seam_sev_guest_extended_report(int fd, struct cm_snp_guest_request *request) {
  int result;
  do {
    result = ioctl(fd, _IOWR('S', 0x2, struct cm_snp_guest_request), request); /* SNP_GET_EXT_REPORT */
  } while (result < 0 && errno == EINTR);
  return result < 0 ? -errno : 0;
}
