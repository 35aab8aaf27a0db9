// The driver's library, libcuda.so.1, as far as somebody speaks with it past CuPy: what takes its time.
//
// It takes `driver_seconds` of LORAD_EMULATED_GPU to start, and again to make a GPU's context; both only once.

#include <cstdlib>
#include <cstring>
#include <unistd.h>

static bool started, entered;

static void take_time() {
  const char *const settings = getenv("LORAD_EMULATED_GPU"), *const name = "\"driver_seconds\": ";
  const char *const found = settings ? strstr(settings, name) : nullptr;
  if (found) usleep((useconds_t)(1e6 * atof(found + strlen(name))));
}

static const int NOT_INITIALIZED = 3;

extern "C" int cuInit(unsigned) {
  if (!started) take_time();
  started = true;
  return 0;
}

extern "C" int cuDeviceGet(int *device, int index) {
  *device = index;
  return started ? 0 : NOT_INITIALIZED;
}

extern "C" int cuDevicePrimaryCtxRetain(void **context, int) {
  if (!started) return NOT_INITIALIZED;
  if (!entered) take_time();
  entered = true;
  *context = &entered;
  return 0;
}
