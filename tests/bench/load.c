/* load: the WebSocket client that loads an echo server. One thread, one epoll.
 *
 *     load MODE HOST PORT PATH [NAME=VALUE ...]        HOST is an address in 127.0.0.0/8
 *
 *     echo   keep `depth` messages in flight on every connection for `seconds`
 *     open   connect, shake hands, echo one message, close, and begin again, for `seconds`
 *     idle   open all, echo one message on each, say "ready", hold until stdin ends
 *
 * Law: every byte that comes back is checked, and checking is cheap, because the driver must never
 * be the bottleneck: nothing is allocated, masked or copied per message. A run ends by its deadline
 * whatever the server does. The result is one line of JSON; the exit status is 0 without errors.
 */
#include "driver.h"

/* ---------------------------------------------------------------- options */

typedef enum { MODE_ECHO, MODE_OPEN, MODE_IDLE } Mode;

static struct {
  Mode mode;
  struct sockaddr_in address;
  const char *path;
  double connections; /* in mode open: how many are under way at once */
  double parallel;    /* handshakes under way at once, in modes echo and idle */
  double size;        /* bytes of a message */
  double depth;       /* messages in flight on each connection */
  double seconds;     /* measured; in mode idle: held at most */
  double warmup;      /* seconds before measuring */
  double deadline;    /* seconds for everything; 0: seconds + warmup + 30 */
  double text;        /* 1: text messages, 0: binary ones */
} options = {
    .connections = 1, .parallel = 32, .size = 64, .depth = 1, .seconds = 2, .warmup = 0.25};

static const Option OPTIONS[] = {
    {"connections", &options.connections, 1, 100000},
    {"parallel", &options.parallel, 1, 1000},
    {"size", &options.size, 0, 64 << 20},
    {"depth", &options.depth, 1, 4096},
    {"seconds", &options.seconds, 0.01, 3600},
    {"warmup", &options.warmup, 0, 3600},
    {"deadline", &options.deadline, 0, 7200},
    {"text", &options.text, 0, 1},
};

static void read_options(int count, char **arguments) {
  if (count < 5) usage("too few arguments");
  if (!strcmp(arguments[1], "echo")) options.mode = MODE_ECHO;
  else if (!strcmp(arguments[1], "open")) options.mode = MODE_OPEN;
  else if (!strcmp(arguments[1], "idle")) options.mode = MODE_IDLE;
  else usage(arguments[1]);

  options.address = read_address(arguments[2], arguments[3]);
  options.path = arguments[4];
  for (int i = 5; i < count; i++)
    read_option(arguments[i], OPTIONS, sizeof OPTIONS / sizeof *OPTIONS);
  if (options.mode != MODE_ECHO) options.depth = 1;
  if (options.deadline == 0) options.deadline = options.seconds + options.warmup + 30;
}

/* ---------------------------------------------------------------- what is sent
 *
 * Message number n carries the bytes pattern[n % variants ...]: neighbours differ, so an answer
 * that is stale, swapped or shifted is seen. The masked frames stand ready one behind the other,
 * once around the variants and `depth` further: what a connection owes next is one slice of this
 * train.
 */

static struct {
  size_t size, depth, variants;
  uint8_t *pattern;
  uint8_t *train;
  size_t frame;  /* bytes of one masked frame */
  size_t circle; /* bytes after which the train repeats itself */
} outgoing;

static void build_train(void) {
  size_t size = outgoing.size = (size_t)options.size;
  outgoing.depth = (size_t)options.depth;
  outgoing.variants = size > 65536 ? 2 : 8; /* few large frames, to stay kind to the caches */

  outgoing.pattern = claim(size + outgoing.variants, 1);
  for (size_t i = 0; i < size + outgoing.variants; i++) /* printable ASCII: good as text too */
    outgoing.pattern[i] = (uint8_t)(' ' + random_bits() % 95);

  size_t frames = outgoing.variants + outgoing.depth;
  outgoing.train = claim(frames, size + 14);
  uint8_t *out = outgoing.train;
  for (size_t n = 0; n < frames; n++, out += outgoing.frame) {
    if (n >= outgoing.variants) {
      memcpy(out, out - outgoing.circle, outgoing.frame);
      continue;
    }
    size_t header = write_header(out, size, options.text ? TEXT : BINARY);
    uint32_t key = (uint32_t)(random_bits() >> 16);
    memcpy(out + header, &key, 4);
    for (size_t i = 0; i < size; i++)
      out[header + 4 + i] = outgoing.pattern[n + i] ^ out[header + i % 4];
    outgoing.frame = header + 4 + size;
    outgoing.circle = outgoing.frame * outgoing.variants;
  }
}

/* ---------------------------------------------------------------- the run */

typedef enum { OPENING, WARMING, MEASURING, DRAINING, HOLDING, LEAVING, DONE } Phase;
typedef enum { ABSENT, CONNECTING, UPGRADING, OPEN, CLOSING } State;

typedef struct {
  int fd;
  State state;
  bool wants_write;
  /* sending */
  uint64_t owed, sent; /* bytes of the endless train */
  uint8_t pong[6 + CONTROL_MAX];
  size_t pong_length, pong_sent;
  /* receiving */
  uint8_t header[10];
  size_t header_length;
  bool in_payload, in_message, final;
  uint8_t opcode;       /* of the current frame */
  uint64_t frame_left;  /* payload bytes of the frame still to come */
  size_t message_bytes; /* of the message that have come */
  uint8_t control[CONTROL_MAX];
  size_t control_length;
  /* accounting */
  uint64_t asked, answered;
  uint64_t *asked_at; /* a ring of `depth` times */
  char response[RESPONSE_MAX];
  size_t response_length;
} Connection;

static Connection *connections;
static size_t capacity;  /* connections there are */
static size_t launched;  /* of these begun, in phase OPENING */
static size_t opening;   /* handshakes under way */
static size_t present;   /* not ABSENT */
static size_t unfinished; /* messages without an answer yet */
static Phase phase;
static uint64_t phase_end, deadline_at, measure_begin;

static struct {
  uint64_t messages, opened, errors;
  double measured, opening_seconds;
  size_t opened_first; /* connections the phase OPENING brought */
  char first_error[160];
} result;

__attribute__((format(printf, 1, 2))) static void complain(const char *format, ...) {
  if (phase >= LEAVING) return; /* the result stands; how the server says goodbye is its affair */
  if (result.errors++) return;
  va_list values;
  va_start(values, format);
  vsnprintf(result.first_error, sizeof result.first_error, format, values);
  va_end(values);
  for (char *c = result.first_error; *c; c++) /* it goes into JSON as it is */
    if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\') *c = '?';
}

static void watch(Connection *c, int operation, bool writing) {
  struct epoll_event event = {.events = writing ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
  c->wants_write = writing;
  epoll_ctl(poller, operation, c->fd, &event);
}

static void drop(Connection *c) {
  if (c->state == CONNECTING || c->state == UPGRADING) opening--;
  unfinished -= c->asked - c->answered;
  close(c->fd);
  c->state = ABSENT;
  present--;
}

static bool fail(Connection *c, const char *reason) {
  complain("%s", reason);
  drop(c);
  return false;
}

/* Sends what is owed. A pong goes between two frames, so while one waits, only the frame under way
 * is finished first. */
static bool flush(Connection *c) {
  for (;;) {
    uint64_t partial = c->sent % outgoing.frame;
    uint64_t until = c->owed;
    if (c->pong_length) until = partial ? c->sent - partial + outgoing.frame : c->sent;
    bool ponging = c->pong_length && c->sent == until;
    if (!ponging && c->sent == until) break;

    const uint8_t *next = outgoing.train + c->sent % outgoing.circle;
    const uint8_t *from = ponging ? c->pong + c->pong_sent : next;
    size_t length = ponging ? c->pong_length - c->pong_sent : (size_t)(until - c->sent);
    ssize_t n = send(c->fd, from, length, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) {
      if (!c->wants_write) watch(c, EPOLL_CTL_MOD, true);
      return true;
    }
    if (n < 0) return fail(c, "connection lost while sending");
    if (!ponging) c->sent += (uint64_t)n;
    else if ((c->pong_sent += (size_t)n) == c->pong_length) c->pong_length = c->pong_sent = 0;
  }
  if (c->wants_write) watch(c, EPOLL_CTL_MOD, false);
  return true;
}

static void ask(Connection *c, uint64_t now) {
  c->asked_at[c->asked++ % outgoing.depth] = now;
  c->owed += outgoing.frame;
  unfinished++;
}

static bool say_goodbye(Connection *c) {
  static const uint8_t close_frame[] = {FIN | CLOSE, MASKED | 2, 0, 0, 0, 0, 0x03, 0xe8}; /* 1000 */
  if (!flush(c)) return false;
  bool between_frames = c->sent == c->owed && !c->pong_length;
  c->state = CLOSING;
  if (!between_frames || send(c->fd, close_frame, sizeof close_frame, MSG_NOSIGNAL) < 0)
    return fail(c, "could not say goodbye");
  return true;
}

/* ---------------------------------------------------------------- opening */

static void launch(Connection *c) {
  uint64_t *ring = c->asked_at;
  memset(c, 0, sizeof *c);
  c->asked_at = ring;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (c->fd < 0) {
    complain("socket: %s", strerror(errno));
    return;
  }
  c->state = CONNECTING;
  opening++, present++;
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  if (connect(c->fd, (struct sockaddr *)&options.address, sizeof options.address) < 0 &&
      errno != EINPROGRESS) {
    complain("connect: %s", strerror(errno));
    drop(c);
    return;
  }
  watch(c, EPOLL_CTL_ADD, true);
}

static void send_request(Connection *c) {
  int error = 0;
  getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
  if (error) {
    complain("connect: %s", strerror(error));
    drop(c);
    return;
  }
  if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) {
    fail(c, "could not send the handshake");
    return;
  }
  c->state = UPGRADING;
  watch(c, EPOLL_CTL_MOD, false);
}

static bool receive_bytes(Connection *c, const uint8_t *data, size_t length, uint64_t now);

/* In mode open an echo goes before the goodbye: it proves that the handler runs, which some servers
 * begin only after the 101. */
static void become_open(Connection *c) {
  c->state = OPEN;
  opening--;
  if (options.mode != MODE_OPEN) return;
  ask(c, now_ns());
  flush(c);
}

static void receive_response(Connection *c) {
  size_t room = RESPONSE_MAX - 1 - c->response_length;
  ssize_t n = recv(c->fd, c->response + c->response_length, room, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) {
    fail(c, "connection lost in the handshake");
    return;
  }
  c->response[c->response_length += (size_t)n] = 0;
  char *end = strstr(c->response, "\r\n\r\n");
  if (!end) {
    if ((size_t)n == room) fail(c, "handshake response too long");
    return;
  }
  if (!accepts(c->response)) {
    complain("handshake refused: %.40s", c->response);
    drop(c);
    return;
  }
  size_t rest = c->response_length - (size_t)(end + 4 - c->response);
  become_open(c);
  if (c->state != ABSENT && rest) receive_bytes(c, (uint8_t *)end + 4, rest, now_ns());
}

/* ---------------------------------------------------------------- receiving
 *
 * A stream parser: it keeps no payload, but compares it as it passes. What returns false has
 * dropped the connection.
 */

static bool begin_frame(Connection *c) {
  const uint8_t *h = c->header;
  uint64_t length = h[1] & LENGTH;
  if (length >= 126) {
    length = 0;
    for (size_t i = 2; i < c->header_length; i++) length = length << 8 | h[i];
  }
  c->opcode = h[0] & OPCODE;
  c->final = h[0] & FIN;
  c->frame_left = length;
  c->in_payload = true;
  c->control_length = 0;
  if (h[0] & RESERVED) return fail(c, "reserved bits set");
  if (h[1] & MASKED) return fail(c, "masked frame from the server");
  if (c->opcode & 8)
    return (c->final && length <= CONTROL_MAX) || fail(c, "bad control frame");
  if (c->opcode != (c->in_message ? CONTINUATION : options.text ? TEXT : BINARY))
    return fail(c, "wrong opcode");
  if (c->asked == c->answered) return fail(c, "a message nobody asked for");
  if (!c->in_message) c->message_bytes = 0;
  c->in_message = true;
  return length <= outgoing.size - c->message_bytes || fail(c, "message too long");
}

static bool take_payload(Connection *c, const uint8_t *data, size_t length) {
  c->frame_left -= length;
  if (c->opcode & 8) {
    memcpy(c->control + c->control_length, data, length);
    c->control_length += length;
    return true;
  }
  const uint8_t *expected = outgoing.pattern + c->answered % outgoing.variants + c->message_bytes;
  c->message_bytes += length;
  return !memcmp(data, expected, length) || fail(c, "wrong content");
}

static void queue_pong(Connection *c) {
  if (c->pong_sent) return; /* half of one is on the wire; this ping goes without */
  c->pong[0] = FIN | PONG;
  c->pong[1] = (uint8_t)(MASKED | c->control_length); /* the key stays zero: nothing to mask */
  memcpy(c->pong + 6, c->control, c->control_length);
  c->pong_length = 6 + c->control_length;
}

static bool end_message(Connection *c, uint64_t now) {
  c->in_message = false;
  if (c->message_bytes != outgoing.size) return fail(c, "message too short");
  uint64_t latency = now - c->asked_at[c->answered++ % outgoing.depth];
  unfinished--;
  if (phase == MEASURING) {
    result.messages++;
    record_latency(latency);
  }
  if (options.mode == MODE_OPEN) return say_goodbye(c);
  if (phase == WARMING || phase == MEASURING) ask(c, now);
  return true;
}

static bool receive_goodbye(Connection *c) {
  if (c->state != CLOSING) return fail(c, "closed by the server");
  drop(c);
  if (options.mode == MODE_OPEN) {
    if (phase == MEASURING) result.opened++;
    if (phase <= MEASURING) launch(c);
  }
  return false;
}

static bool end_frame(Connection *c, uint64_t now) {
  c->in_payload = false;
  c->header_length = 0;
  if (c->opcode == CLOSE) return receive_goodbye(c);
  if (c->opcode == PING && c->state == OPEN) queue_pong(c); /* nothing follows a close frame */
  if (c->opcode & 8) return true;
  return !c->final || end_message(c, now);
}

static size_t header_needs(const Connection *c) {
  if (c->header_length < 2) return 2;
  uint8_t length = c->header[1] & LENGTH;
  return length == 127 ? 10 : length == 126 ? 4 : 2;
}

static bool receive_bytes(Connection *c, const uint8_t *data, size_t length, uint64_t now) {
  const uint8_t *end = data + length;
  while (data < end) {
    if (!c->in_payload) {
      c->header[c->header_length++] = *data++;
      if (c->header_length < header_needs(c)) continue;
      if (!begin_frame(c)) return false;
    } else {
      size_t n = (size_t)(end - data);
      if (n > c->frame_left) n = c->frame_left;
      if (!take_payload(c, data, n)) return false;
      data += n;
    }
    if (!c->frame_left && !end_frame(c, now)) return false;
  }
  return true;
}

static void receive(Connection *c) {
  static uint8_t inbox[INBOX];
  ssize_t n = recv(c->fd, inbox, sizeof inbox, 0);
  if (n < 0 && errno == EAGAIN) return;
  if (n <= 0) fail(c, "connection lost");
  else if (receive_bytes(c, inbox, (size_t)n, now_ns())) flush(c);
}

static void serve(Connection *c, uint32_t events) {
  switch (c->state) {
    case ABSENT: break;
    case CONNECTING: send_request(c); break;
    case UPGRADING: receive_response(c); break;
    default:
      if (events & EPOLLOUT && !flush(c)) return;
      if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
  }
}

/* ---------------------------------------------------------------- the phases
 *
 * echo: OPENING, WARMING, MEASURING, DRAINING, LEAVING
 * open:          WARMING, MEASURING, DRAINING
 * idle: OPENING,                     DRAINING, HOLDING, LEAVING
 */


static void enter(Phase next, uint64_t now, double seconds) {
  phase = next;
  phase_end = now + (uint64_t)(seconds * (double)SECOND);
}

static void launch_more(void) {
  while (launched < capacity && opening < (size_t)options.parallel)
    launch(&connections[launched++]);
}

static void ask_everywhere(uint64_t now) {
  for (size_t i = 0; i < capacity; i++) {
    Connection *c = &connections[i];
    for (size_t n = 0; c->state == OPEN && n < outgoing.depth; n++) ask(c, now);
    if (c->state == OPEN) flush(c);
  }
}

static void leave(uint64_t now) {
  enter(LEAVING, now, (double)GRACE / SECOND);
  for (size_t i = 0; i < capacity; i++) {
    if (connections[i].state == OPEN) say_goodbye(&connections[i]);
    else if (connections[i].state != ABSENT) drop(&connections[i]);
  }
}

static void end_opening(uint64_t now) {
  result.opening_seconds = (double)(now - measure_begin) / SECOND;
  result.opened_first = present;
  if (options.mode == MODE_ECHO) enter(WARMING, now, options.warmup);
  else enter(DRAINING, now, (double)GRACE / SECOND);
  ask_everywhere(now);
}

static void end_draining(uint64_t now) {
  size_t missing = options.mode == MODE_OPEN ? present : unfinished;
  if (missing) complain("%zu unanswered after the end", missing);
  if (options.mode == MODE_IDLE) {
    printf("ready\n");
    fflush(stdout);
    enter(HOLDING, now, options.seconds);
  } else {
    leave(now);
  }
}

static void advance(uint64_t now) {
  bool over = now >= phase_end;
  switch (phase) {
    case OPENING:
      launch_more();
      if (launched == capacity && !opening) end_opening(now);
      break;
    case WARMING:
      if (over) enter(MEASURING, measure_begin = now, options.seconds);
      break;
    case MEASURING:
      if (over || !present) {
        result.measured = (double)(now - measure_begin) / SECOND;
        enter(DRAINING, now, (double)GRACE / SECOND);
      }
      break;
    case DRAINING:
      if (over || !(options.mode == MODE_OPEN ? present : unfinished)) end_draining(now);
      break;
    case HOLDING:
      if (over || stdin_ended) leave(now);
      break;
    case LEAVING:
      if (over || !present) phase = DONE;
      break;
    case DONE: break;
  }
}

static int patience_ms(uint64_t now) {
  uint64_t until = phase == OPENING || deadline_at < phase_end ? deadline_at : phase_end;
  return until <= now ? 0 : (int)((until - now) / 1000000 + 1);
}

static void run(void) {
  struct epoll_event events[EVENTS];
  uint64_t now = measure_begin = now_ns();
  deadline_at = now + (uint64_t)(options.deadline * (double)SECOND);
  if (options.mode == MODE_OPEN) {
    enter(WARMING, now, options.warmup);
    for (size_t i = 0; i < capacity; i++) launch(&connections[i]);
  }
  for (advance(now); phase != DONE; advance(now)) {
    int n = epoll_wait(poller, events, EVENTS, patience_ms(now));
    for (int i = 0; i < n; i++) {
      Connection *c = events[i].data.ptr;
      if (c) serve(c, events[i].events);
      else end_of_stdin();
    }
    now = now_ns();
    if (now >= deadline_at) {
      complain("deadline passed");
      return;
    }
  }
}

static void report(void) {
  double opens = 0, messages = 0;
  if (options.mode != MODE_OPEN && result.opening_seconds > 0)
    opens = (double)result.opened_first / result.opening_seconds;
  else if (result.measured > 0)
    opens = (double)result.opened / result.measured;
  if (result.measured > 0) messages = (double)result.messages / result.measured;
  printf("{\"messages_per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
         "\"opens_per_second\": %.1f, \"opened\": %zu, \"seconds\": %.3f, "
         "\"errors\": %llu, \"first_error\": \"%s\"}\n",
         messages, percentile_us(0.50), percentile_us(0.99),
         opens, result.opened_first, result.measured, (unsigned long long)result.errors,
         result.first_error);
}

int main(int count, char **arguments) {
  program = "load", modes = "echo|open|idle";
  read_options(count, arguments);
  build_train();
  write_request(options.path, ntohs(options.address.sin_port));
  poller = epoll_create1(EPOLL_CLOEXEC);
  capacity = (size_t)options.connections;
  connections = claim(capacity, sizeof *connections);
  for (size_t i = 0; i < capacity; i++)
    connections[i].asked_at = claim(outgoing.depth, sizeof(uint64_t));
  if (options.mode == MODE_IDLE) watch_stdin();
  run();
  report();
  return result.errors ? 1 : 0;
}
