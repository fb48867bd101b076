/* What the drivers share: their options, the time, the handshake, frame headers, latencies.
 *
 * Law: a load generator must not be pointed at somebody else's machine, so HOST is a loopback
 * address; and what is wrong with a command line is said before anything is sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum { FIN = 0x80, RESERVED = 0x70, OPCODE = 0x0f, MASKED = 0x80, LENGTH = 0x7f };
enum { CONTROL_MAX = 125, RESPONSE_MAX = 2048, INBOX = 256 * 1024, EVENTS = 512 };

#define SECOND 1000000000ull
#define GRACE (2 * SECOND) /* for the last answers, and again for the goodbyes */

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t random_bits(void) {
  static uint64_t state = 0x9e3779b97f4a7c15ull; /* xorshift64; runs are repeatable */
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

/* ---------------------------------------------------------------- events
 *
 * Those of a connection carry it; those of stdin, whose end lets a driver go, carry NULL.
 */

static int poller;
static bool stdin_ended;

static void watch_stdin(void) { /* refused for a plain file: then `seconds` ends the holding */
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event);
}

static void end_of_stdin(void) {
  char ignored[64];
  if (read(STDIN_FILENO, ignored, sizeof ignored) > 0) return;
  stdin_ended = true;
  epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
}

/* ---------------------------------------------------------------- options */

typedef struct {
  const char *name;
  double *value, least, most;
} Option;

static const char *program, *modes; /* for the usage */

static void usage(const char *complaint) {
  fprintf(stderr, "%s: %s\n", program, complaint);
  fprintf(stderr, "usage: %s %s HOST PORT PATH [NAME=VALUE ...]\n", program, modes);
  exit(2);
}

static void read_option(const char *argument, const Option *options, size_t count) {
  const char *equals = strchr(argument, '=');
  for (size_t i = 0; equals && i < count; i++) {
    size_t length = (size_t)(equals - argument);
    if (strlen(options[i].name) != length || strncmp(argument, options[i].name, length)) continue;
    char *end;
    double value = strtod(equals + 1, &end);
    if (*end || end == equals + 1 || !(value >= options[i].least && value <= options[i].most))
      usage(argument);
    *options[i].value = value;
    return;
  }
  usage(argument);
}

static struct sockaddr_in read_address(const char *host, const char *port_text) {
  int port = atoi(port_text);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1 || port < 1 || port > 65535)
    usage("HOST is a numeric IPv4 address and PORT a port");
  if (ntohl(address.sin_addr.s_addr) >> 24 != 127) usage("HOST is not a loopback address");
  return address;
}

/* ---------------------------------------------------------------- what goes over the wire */

static void *claim(size_t count, size_t each) {
  void *memory = calloc(count ? count : 1, each);
  if (!memory) perror(program), exit(2);
  return memory;
}

static size_t write_header(uint8_t *out, size_t size, uint8_t opcode) {
  out[0] = FIN | opcode;
  if (size <= 125) return out[1] = (uint8_t)(MASKED | size), 2;
  int bytes = size <= 0xffff ? 2 : 8;
  out[1] = MASKED | (bytes == 2 ? 126 : 127);
  for (int i = 0; i < bytes; i++) out[2 + i] = (uint8_t)(size >> 8 * (bytes - 1 - i));
  return 2 + (size_t)bytes;
}

static char request[1024];
static size_t request_length;

static void write_request(const char *path, int port) {
  request_length = (size_t)snprintf(
      request, sizeof request,
      "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
      path, port);
  if (request_length >= sizeof request) usage("PATH is too long");
}

/* Whether a response, up to its empty line and with a zero behind it, accepts the request above. */
static bool accepts(const char *response) {
  /* The accept value of the one key we send; case-sensitive, unlike the header's name. */
  return strstr(response, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") && !strncmp(response, "HTTP/1.1 101 ", 13);
}

/* ---------------------------------------------------------------- latencies
 *
 * A histogram of nanoseconds with 64 steps to each doubling: exact to 1.6 %, no limit, no sorting.
 */

enum { STEPS = 64 };
static uint64_t histogram[STEPS * 60], recorded;

static void record_latency(uint64_t ns) {
  if (ns < STEPS) ns = STEPS;
  int shift = 63 - __builtin_clzll(ns) - 6;
  histogram[(uint64_t)shift * STEPS + (ns >> shift) - STEPS]++;
  recorded++;
}

static double percentile_us(double quantile) {
  double rank = quantile * (double)recorded;
  uint64_t seen = 0;
  for (size_t i = 0; i < sizeof histogram / sizeof *histogram; i++) {
    seen += histogram[i];
    if (histogram[i] && (double)seen >= rank)
      return ((double)(i % STEPS) + STEPS + 0.5) * (double)(1ull << i / STEPS) / 1000;
  }
  return 0;
}
