/*
 * The addon: the only file that knows Node-API. It turns JavaScript values into calls of the probe and its
 * answers into JavaScript values, and throws errors with a code and a one-line message.
 */
#define NAPI_VERSION 8
#include <errno.h>
#include <node_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "casemate/block_io.h"
#include "casemate/output.h"
#include "casemate/probe.h"
#include "casemate/secure_memory.h"
#include "casemate/sev_guest.h"

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
  struct cm_options options = {.keep = true};
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

/* ---------------------------------------------------------------------------------------- sev-guest */

static napi_value copy_of(napi_env env, const unsigned char *bytes, size_t size) {
  napi_value buffer;
  return napi_create_buffer_copy(env, size, bytes, NULL, &buffer) == napi_ok ? buffer : NULL;
}

/* snpReport(device, reportData) → {report, certificates} */
static napi_value snp_report(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  char device[4096];
  size_t length = 0;
  bool typed = false;
  napi_typedarray_type type = napi_int8_array;
  void *data = NULL;
  size_t size = 0;
  if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) != napi_ok) return NULL;
  if (count < 2 || napi_get_value_string_utf8(env, arguments[0], device, sizeof device, &length) != napi_ok ||
      length + 1 >= sizeof device || strlen(device) != length || napi_is_typedarray(env, arguments[1], &typed) != napi_ok || !typed ||
      napi_get_typedarray_info(env, arguments[1], &type, &size, &data, NULL, NULL) != napi_ok || type != napi_uint8_array ||
      size != CM_SNP_REPORT_DATA_SIZE) {
    return throw_error(env, "CASEMATE_SNP_USAGE", "not a path and 64 bytes");
  }
  static _Thread_local struct cm_snp_report answer;
  int error = cm_snp_report(device, data, &answer);
  if (error != 0) {
    char message[200];
    (void)snprintf(message, sizeof message, "%.80s: %s (firmware 0x%x, host 0x%x)", device, strerror(error), answer.firmware_error, answer.vmm_error);
    return throw_error(env, "CASEMATE_SNP_REPORT", message);
  }
  napi_value result;
  napi_value signed_report = copy_of(env, answer.report, sizeof answer.report);
  napi_value certificates = copy_of(env, answer.certificates, sizeof answer.certificates);
  if (signed_report == NULL || certificates == NULL || napi_create_object(env, &result) != napi_ok ||
      napi_set_named_property(env, result, "report", signed_report) != napi_ok ||
      napi_set_named_property(env, result, "certificates", certificates) != napi_ok) {
    return NULL;
  }
  return result;
}

/* ------------------------------------------------------------------------------------ secure memory */

/* How long a descriptor that does not block (Node's pipes are such) may keep the thread waiting. */
enum { TRANSFER_TIMEOUT_MS = 5000, ARGUMENTS_MAX = 4 };

/* What one method call is about. */
struct call {
  size_t count;
  napi_value arguments[ARGUMENTS_MAX];
  struct cm_secure *memory;
};

static napi_value throw_errno(napi_env env, const char *code, const char *what, int error) {
  char message[160];
  (void)snprintf(message, sizeof message, "%s: %s", what, strerror(error));
  return throw_error(env, code, message);
}

/* Ids that tell our wrapped objects from others': Node-API's type tags. */
static const napi_type_tag secure_tag = {0x8c1f5e0b9a7d4236u, 0xb3f06c2e5d914a78u};

static void finalize(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  cm_secure_release(data);
  free(data);
}

static bool begin(napi_env env, napi_callback_info info, struct call *call) {
  napi_value self;
  bool ours = false;
  call->count = ARGUMENTS_MAX;
  if (napi_get_cb_info(env, info, &call->count, call->arguments, &self, NULL) != napi_ok) return false;
  if (napi_check_object_type_tag(env, self, &secure_tag, &ours) != napi_ok || !ours ||
      napi_unwrap(env, self, (void **)&call->memory) != napi_ok) {
    (void)throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "not a SecureMemory");
    return false;
  }
  if (call->memory->bytes == NULL) {
    (void)throw_error(env, "CASEMATE_SECURE_MEMORY_RELEASED", "this memory was released");
    return false;
  }
  return true;
}

/* The bytes of a Uint8Array (or Buffer) argument. */
static bool bytes_argument(napi_env env, const struct call *call, size_t index, unsigned char **bytes, size_t *size) {
  bool is_typed = false;
  napi_typedarray_type type = napi_int8_array;
  void *data = NULL;
  if (index < call->count && napi_is_typedarray(env, call->arguments[index], &is_typed) == napi_ok && is_typed &&
      napi_get_typedarray_info(env, call->arguments[index], &type, size, &data, NULL, NULL) == napi_ok && type == napi_uint8_array) {
    *bytes = data;
    return true;
  }
  (void)throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "not a Uint8Array");
  return false;
}

static bool whole_number(napi_env env, const struct call *call, size_t index, uint32_t *out) {
  double value;
  if (index >= call->count || napi_get_value_double(env, call->arguments[index], &value) != napi_ok || !(value >= 0) ||
      value > UINT32_MAX || value != (double)(uint32_t)value) {
    return false;
  }
  *out = (uint32_t)value;
  return true;
}

static bool number_argument(napi_env env, const struct call *call, size_t index, uint32_t *out) {
  if (whole_number(env, call, index, out)) return true;
  (void)throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "not a whole number");
  return false;
}

static napi_value undefined(napi_env env) {
  napi_value value;
  return napi_get_undefined(env, &value) == napi_ok ? value : NULL;
}

/* new SecureMemory(size) */
static napi_value construct(napi_env env, napi_callback_info info) {
  struct call call = {.count = ARGUMENTS_MAX};
  napi_value self;
  napi_value target;
  uint32_t size;
  if (napi_get_cb_info(env, info, &call.count, call.arguments, &self, NULL) != napi_ok) return NULL;
  if (napi_get_new_target(env, info, &target) != napi_ok || target == NULL) {
    return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "SecureMemory is made with new");
  }
  if (!number_argument(env, &call, 0, &size)) return NULL;
  struct cm_secure *memory = malloc(sizeof *memory);
  if (memory == NULL) return throw_errno(env, "CASEMATE_SECURE_MEMORY_ALLOCATE", "no memory for its description", ENOMEM);
  int error = cm_secure_allocate(memory, size);
  if (error != 0) {
    free(memory);
    return throw_errno(env, "CASEMATE_SECURE_MEMORY_ALLOCATE", error == EINVAL ? "size is not 1 to 1048576 bytes" : "cannot lock memory (RLIMIT_MEMLOCK)", error);
  }
  if (napi_wrap(env, self, memory, finalize, NULL, NULL) != napi_ok) {
    cm_secure_release(memory);
    free(memory);
    return throw_error(env, "CASEMATE_SECURE_MEMORY_ALLOCATE", "cannot be wrapped");
  }
  if (napi_type_tag_object(env, self, &secure_tag) != napi_ok) return NULL;
  return self;
}

static napi_value get_size(napi_env env, napi_callback_info info) {
  struct call call;
  napi_value value;
  if (!begin(env, info, &call) || napi_create_double(env, (double)call.memory->size, &value) != napi_ok) return NULL;
  return value;
}

static napi_value get_backing(napi_env env, napi_callback_info info) {
  struct call call;
  napi_value value;
  if (!begin(env, info, &call)) return NULL;
  const char *name = call.memory->backing == CM_BACKING_MEMFD_SECRET ? "memfd_secret" : "locked";
  return napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &value) == napi_ok ? value : NULL;
}

/* The address in hexadecimal, to be found in /proc/self/smaps. */
static napi_value get_address(napi_env env, napi_callback_info info) {
  struct call call;
  napi_value value;
  char text[32];
  if (!begin(env, info, &call)) return NULL;
  (void)snprintf(text, sizeof text, "%llx", (unsigned long long)(uintptr_t)call.memory->bytes);
  return napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value) == napi_ok ? value : NULL;
}

/* take(source, offset): moves bytes in, and wipes where they came from. */
static napi_value take(napi_env env, napi_callback_info info) {
  struct call call;
  unsigned char *bytes;
  size_t size;
  uint32_t offset;
  if (!begin(env, info, &call) || !bytes_argument(env, &call, 0, &bytes, &size) || !number_argument(env, &call, 1, &offset)) return NULL;
  if (offset > call.memory->size || size > call.memory->size - offset) {
    return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "more bytes than fit");
  }
  if (size > 0) {
    memcpy(call.memory->bytes + offset, bytes, size);
    cm_secure_wipe(bytes, size);
  }
  return undefined(env);
}

static napi_value randomize(napi_env env, napi_callback_info info) {
  struct call call;
  if (!begin(env, info, &call)) return NULL;
  int error = cm_secure_randomize(call.memory);
  return error == 0 ? undefined(env) : throw_errno(env, "CASEMATE_SECURE_MEMORY_IO", "getrandom", error);
}

/* equals(bytes): a Uint8Array of the same size. */
static napi_value equals(napi_env env, napi_callback_info info) {
  struct call call;
  unsigned char *bytes;
  size_t size;
  napi_value value;
  if (!begin(env, info, &call) || !bytes_argument(env, &call, 0, &bytes, &size)) return NULL;
  bool same = size == call.memory->size && cm_secure_equal(call.memory->bytes, bytes, size);
  return napi_get_boolean(env, same, &value) == napi_ok ? value : NULL;
}

/* equalsMemory(other): another SecureMemory. */
static napi_value equals_memory(napi_env env, napi_callback_info info) {
  struct call call;
  struct cm_secure *other;
  bool ours = false;
  napi_value value;
  if (!begin(env, info, &call)) return NULL;
  if (call.count < 1 || napi_check_object_type_tag(env, call.arguments[0], &secure_tag, &ours) != napi_ok || !ours ||
      napi_unwrap(env, call.arguments[0], (void **)&other) != napi_ok) {
    return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "not a SecureMemory");
  }
  if (other->bytes == NULL) return throw_error(env, "CASEMATE_SECURE_MEMORY_RELEASED", "the other memory was released");
  bool same = other->size == call.memory->size && cm_secure_equal(call.memory->bytes, other->bytes, other->size);
  return napi_get_boolean(env, same, &value) == napi_ok ? value : NULL;
}

/* writeTo(fd): all of it, from where it is. */
static napi_value write_to(napi_env env, napi_callback_info info) {
  struct call call;
  uint32_t fd;
  if (!begin(env, info, &call) || !number_argument(env, &call, 0, &fd)) return NULL;
  int error = cm_secure_write(call.memory, (int)fd, TRANSFER_TIMEOUT_MS);
  return error == 0 ? undefined(env) : throw_errno(env, "CASEMATE_SECURE_MEMORY_IO", "writing", error);
}

/* toPipe(): the reading end of a pipe that holds all of it. */
static napi_value to_pipe(napi_env env, napi_callback_info info) {
  struct call call;
  int fd;
  napi_value value;
  if (!begin(env, info, &call)) return NULL;
  int error = cm_secure_pipe(call.memory, &fd);
  if (error != 0) return throw_errno(env, "CASEMATE_SECURE_MEMORY_IO", error == EFBIG ? "more than a pipe holds" : "making a pipe", error);
  return napi_create_int32(env, fd, &value) == napi_ok ? value : NULL;
}

/* readFrom(fd): until end of file; the count. */
static napi_value read_from(napi_env env, napi_callback_info info) {
  struct call call;
  uint32_t fd;
  size_t size;
  napi_value value;
  if (!begin(env, info, &call) || !number_argument(env, &call, 0, &fd)) return NULL;
  int error = cm_secure_read(call.memory, (int)fd, TRANSFER_TIMEOUT_MS, &size);
  if (error != 0) return throw_errno(env, "CASEMATE_SECURE_MEMORY_IO", error == EFBIG ? "more to read than fits" : "reading", error);
  return napi_create_double(env, (double)size, &value) == napi_ok ? value : NULL;
}

/* The view that use() lends is external: its bytes are these pages, not the heap's. */
static void keep(napi_env env, void *data, void *hint) {
  (void)env;
  (void)data;
  (void)hint;
}

/* use(callback): lends a Uint8Array over the pages, takes it back when the callback returns or throws, and
 * answers what the callback answered. */
static napi_value use(napi_env env, napi_callback_info info) {
  struct call call;
  napi_value buffer;
  napi_value view;
  napi_value receiver;
  napi_value answer = NULL;
  if (!begin(env, info, &call)) return NULL;
  napi_valuetype type = napi_undefined;
  if (call.count < 1 || napi_typeof(env, call.arguments[0], &type) != napi_ok || type != napi_function) {
    return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "not a function");
  }
  if (napi_create_external_arraybuffer(env, call.memory->bytes, call.memory->size, keep, NULL, &buffer) != napi_ok ||
      napi_create_typedarray(env, napi_uint8_array, call.memory->size, buffer, 0, &view) != napi_ok ||
      napi_get_undefined(env, &receiver) != napi_ok) {
    return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "this Node does not lend memory from outside its heap");
  }
  napi_status status = napi_call_function(env, receiver, call.arguments[0], 1, &view, &answer);
  /* Also with an exception under way: detaching touches no JavaScript. */
  napi_value exception = NULL;
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) (void)napi_get_and_clear_last_exception(env, &exception);
  if (napi_detach_arraybuffer(env, buffer) != napi_ok) return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "the view cannot be taken back");
  if (exception != NULL) {
    (void)napi_throw(env, exception);
    return NULL;
  }
  return status == napi_ok ? answer : NULL;
}

/* release(): wipes and unmaps. The object stays, and says that it was released. */
static napi_value release(napi_env env, napi_callback_info info) {
  napi_value self;
  struct cm_secure *memory;
  bool ours = false;
  size_t count = 0;
  if (napi_get_cb_info(env, info, &count, NULL, &self, NULL) != napi_ok) return NULL;
  if (napi_check_object_type_tag(env, self, &secure_tag, &ours) != napi_ok || !ours || napi_unwrap(env, self, (void **)&memory) != napi_ok) {
    return throw_error(env, "CASEMATE_SECURE_MEMORY_USAGE", "not a SecureMemory");
  }
  cm_secure_release(memory);
  return undefined(env);
}

static bool define_secure_memory(napi_env env, napi_value exports) {
#define METHOD(name, function) {name, NULL, function, NULL, NULL, NULL, napi_enumerable, NULL}
#define GETTER(name, function) {name, NULL, NULL, function, NULL, NULL, napi_enumerable, NULL}
  const napi_property_descriptor members[] = {
      GETTER("size", get_size),           GETTER("backing", get_backing),     GETTER("address", get_address),
      METHOD("take", take),               METHOD("randomize", randomize),     METHOD("equals", equals),
      METHOD("equalsMemory", equals_memory), METHOD("writeTo", write_to),     METHOD("readFrom", read_from),
      METHOD("toPipe", to_pipe),          METHOD("use", use),                 METHOD("release", release),
  };
  napi_value constructor;
  return napi_define_class(env, "SecureMemory", NAPI_AUTO_LENGTH, construct, NULL, sizeof members / sizeof members[0], members, &constructor) == napi_ok &&
         napi_set_named_property(env, exports, "SecureMemory", constructor) == napi_ok;
}

/* ---------------------------------------------------------------------------------------- block I/O */

/* No image has bigger pieces, and a wrong number must not take the machine's memory. */
enum { BLOCK_BUFFER_MAX = 64 * 1024 * 1024 };

static void free_buffer(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  free(data);
}

/* blockBuffer(size) → Uint8Array, zeroed and aligned for direct I/O. */
static napi_value block_buffer(napi_env env, napi_callback_info info) {
  struct call call = {.count = ARGUMENTS_MAX};
  uint32_t size;
  napi_value buffer;
  napi_value view;
  if (napi_get_cb_info(env, info, &call.count, call.arguments, NULL, NULL) != napi_ok) return NULL;
  if (!whole_number(env, &call, 0, &size) || size == 0 || size > BLOCK_BUFFER_MAX) {
    return throw_error(env, "CASEMATE_BLOCK_IO_USAGE", "size is not 1 to 67108864 bytes");
  }
  void *memory = cm_block_buffer(size);
  if (memory == NULL) return throw_errno(env, "CASEMATE_BLOCK_IO_ALLOCATE", "no memory for a buffer", ENOMEM);
  if (napi_create_external_arraybuffer(env, memory, size, free_buffer, NULL, &buffer) != napi_ok) {
    free(memory);
    return throw_error(env, "CASEMATE_BLOCK_IO_ALLOCATE", "this Node does not lend memory from outside its heap");
  }
  return napi_create_typedarray(env, napi_uint8_array, size, buffer, 0, &view) == napi_ok ? view : NULL;
}

/* nextData(fd, from) → where the next data begins, or -1. */
static napi_value next_data(napi_env env, napi_callback_info info) {
  struct call call = {.count = ARGUMENTS_MAX};
  uint32_t fd;
  int64_t from;
  int64_t at;
  napi_value value;
  if (napi_get_cb_info(env, info, &call.count, call.arguments, NULL, NULL) != napi_ok) return NULL;
  if (!whole_number(env, &call, 0, &fd) || call.count < 2 || napi_get_value_int64(env, call.arguments[1], &from) != napi_ok || from < 0) {
    return throw_error(env, "CASEMATE_BLOCK_IO_USAGE", "not a descriptor and an offset");
  }
  int error = cm_next_data((int)fd, from, &at);
  if (error != 0) return throw_errno(env, "CASEMATE_BLOCK_IO_SEEK", "looking for data", error);
  return napi_create_int64(env, at, &value) == napi_ok ? value : NULL;
}

static bool export_function(napi_env env, napi_value exports, const char *name, napi_callback callback) {
  napi_value function;
  return napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, NULL, &function) == napi_ok &&
         napi_set_named_property(env, exports, name, function) == napi_ok;
}

NAPI_MODULE_INIT() {
  if (!export_function(env, exports, "probe", probe) || !export_function(env, exports, "snpReport", snp_report) ||
      !export_function(env, exports, "blockBuffer", block_buffer) || !export_function(env, exports, "nextData", next_data)) {
    return NULL;
  }
  return define_secure_memory(env, exports) ? exports : NULL;
}
