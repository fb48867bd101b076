/* hub: the client that loads a hub. One thread, one epoll.
 *
 *     hub MODE HOST PORT PATH [NAME=VALUE ...]         HOST is an address in 127.0.0.0/8
 *
 *     broadcast   one client calls Broadcast(text) and all get Message(text); `depth` broadcasts
 *                 are under way for `seconds`
 *     invoke      every client calls Echo(text); `depth` calls are under way on each
 *     idle        open all, one call on each, say "ready", hold until stdin ends
 *
 * It speaks SignalR's JSON protocol, or socket.io's with `socketio=1`.
 *
 * Law: every message counts once, in its client's order, and only if it is right to the byte. What
 * is right is learned from the first answer, which must hold the text that was sent: each later
 * one must be the same with its own number in the number's places. The first error ends the run,
 * and so does its deadline. The result is one line of JSON; the exit status is 0 without errors.
 */
#include "driver.h"

enum { DIGITS = 9, MESSAGE_MAX = 1024, HOLES = 2, DEPTH_MAX = 64, SEPARATOR = 0x1e };

#define FIRST_NUMBER 100000000ull
#define APART 500000ull /* numbers of one client until those of the next begin */
#define STALL 5         /* seconds that one send or, in the opening, one answer may take */
#define PATIENCE 5      /* seconds for the last answers: of slow peers, those of 8 broadcasts */

/* ---------------------------------------------------------------- options */

typedef enum { MODE_BROADCAST, MODE_INVOKE, MODE_IDLE } Mode;

static struct {
  Mode mode;
  struct sockaddr_in address;
  double connections;
  double size;     /* bytes of a text */
  double depth;    /* calls under way: in all, or on each connection */
  double seconds;  /* measured; in mode idle: held at most */
  double warmup;   /* seconds before measuring */
  double deadline; /* seconds for everything; 0: seconds + warmup + 30 */
  double socketio;
  double second; /* a port: of the node to which every other client goes; 0: all to the same */
} options = {.connections = 1, .size = 100, .depth = 1, .seconds = 2, .warmup = 0.25};

static const Option OPTIONS[] = {
    {"connections", &options.connections, 1, 1000},
    {"size", &options.size, DIGITS, 512},
    {"depth", &options.depth, 1, DEPTH_MAX},
    {"seconds", &options.seconds, 0.01, 3600},
    {"warmup", &options.warmup, 0, 3600},
    {"deadline", &options.deadline, 0, 7200},
    {"socketio", &options.socketio, 0, 1},
    {"second", &options.second, 0, 65535},
};

static void read_options(int count, char **arguments) {
  if (count < 5) usage("too few arguments");
  if (!strcmp(arguments[1], "broadcast")) options.mode = MODE_BROADCAST;
  else if (!strcmp(arguments[1], "invoke")) options.mode = MODE_INVOKE;
  else if (!strcmp(arguments[1], "idle")) options.mode = MODE_IDLE;
  else usage(arguments[1]);
  options.address = read_address(arguments[2], arguments[3]);
  for (int i = 5; i < count; i++)
    read_option(arguments[i], OPTIONS, sizeof OPTIONS / sizeof *OPTIONS);
  if (options.mode == MODE_IDLE) options.depth = 1;
  if (options.deadline == 0) options.deadline = options.seconds + options.warmup + 30;
}

/* ---------------------------------------------------------------- the run */

typedef enum { OPENING, WARMING, MEASURING, DRAINING, HOLDING, LEAVING, DONE } Phase;

typedef struct {
  int fd; /* -1: gone */
  bool welcome;
  uint64_t first; /* number */
  uint64_t asked, answered;
  uint64_t asked_at[DEPTH_MAX];
  uint8_t held[MESSAGE_MAX]; /* of a frame that has not come whole */
  size_t held_length;
} Connection;

static Connection *connections;
static size_t capacity, present, unfinished;
static Phase phase;
static uint64_t phase_end, deadline_at, measure_begin;

static struct {
  uint64_t messages;
  double measured;
} result;

/* One broadcast after the other, each with a place in the ring until all have it. */
static struct {
  uint64_t begun;
  size_t missing[DEPTH_MAX];
  uint64_t at[DEPTH_MAX];
} broadcasts;

static void report(const char *error) {
  double rate = result.measured > 0 ? (double)result.messages / result.measured : 0;
  printf("{\"messages_per_second\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
         "\"opened\": %zu, \"seconds\": %.3f, \"errors\": %d, \"first_error\": \"%s\"}\n",
         rate, percentile_us(0.50), percentile_us(0.99), capacity, result.measured, *error != 0,
         error);
}

__attribute__((format(printf, 1, 2))) static void give_up(const char *format, ...) {
  if (phase >= LEAVING) return; /* the result stands; how the server says goodbye is its affair */
  char error[160];
  va_list values;
  va_start(values, format);
  vsnprintf(error, sizeof error, format, values);
  va_end(values);
  for (char *c = error; *c; c++) /* it goes into JSON as it is */
    if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\') *c = '?';
  report(error);
  exit(1);
}

static void drop(Connection *c) {
  close(c->fd);
  c->fd = -1;
  present--;
}

/* ---------------------------------------------------------------- sending
 *
 * Calls are short and few wait, so a send that cannot take one whole is an error.
 */

static void send_frame(Connection *c, uint8_t opcode, const char *payload, size_t length) {
  uint8_t frame[MESSAGE_MAX + 14];
  size_t header = write_header(frame, length, opcode);
  uint32_t key = (uint32_t)(random_bits() >> 16);
  memcpy(frame + header, &key, 4);
  for (size_t i = 0; i < length; i++)
    frame[header + 4 + i] = (uint8_t)payload[i] ^ frame[header + i % 4];
  size_t whole = header + 4 + length;
  if (send(c->fd, frame, whole, MSG_NOSIGNAL) != (ssize_t)whole) give_up("could not send a call");
}

static void write_digits(char *out, uint64_t number) {
  for (int i = DIGITS; i--; number /= 10) out[i] = (char)('0' + number % 10);
}

/* A message with places for a number: the call that is sent, and the answer that is expected. */
typedef struct {
  char bytes[MESSAGE_MAX];
  size_t length, holes, hole[HOLES];
  uint64_t number; /* that stands there now */
} Template;

static char text[MESSAGE_MAX]; /* begins with a number */
static Template call, answer;

static void fill(Template *t, uint64_t number) {
  if (t->number == number) return;
  for (size_t i = 0; i < t->holes; i++) write_digits(t->bytes + t->hole[i], number);
  t->number = number;
}

static void find_holes(Template *t, uint64_t number) {
  char digits[DIGITS];
  write_digits(digits, number);
  t->number = number;
  for (size_t at = 0; at + DIGITS <= t->length && t->holes < HOLES; at++)
    if (!memcmp(t->bytes + at, digits, DIGITS)) t->hole[t->holes++] = at, at += DIGITS - 1;
}

static void build_call(void) {
  size_t size = (size_t)options.size;
  write_digits(text, FIRST_NUMBER);
  for (size_t i = DIGITS; i < size; i++) text[i] = (char)('a' + random_bits() % 26);
  static const char *forms[2][2] = {
      {"{\"type\":1,\"target\":\"Broadcast\",\"arguments\":[\"%s\"]}\x1e",
       "{\"type\":1,\"invocationId\":\"%llu\",\"target\":\"Echo\",\"arguments\":[\"%s\"]}\x1e"},
      {"42[\"broadcast\",\"%s\"]", "42%llu[\"echo\",\"%s\"]"},
  };
  const char *form = forms[options.socketio != 0][options.mode != MODE_BROADCAST];
  int length = options.mode == MODE_BROADCAST
                   ? snprintf(call.bytes, MESSAGE_MAX, form, text)
                   : snprintf(call.bytes, MESSAGE_MAX, form, FIRST_NUMBER, text);
  call.length = (size_t)length;
  find_holes(&call, FIRST_NUMBER);
}

static void ask(Connection *c, uint64_t now) {
  if (options.mode == MODE_BROADCAST) {
    size_t place = broadcasts.begun % DEPTH_MAX;
    fill(&call, c->first + broadcasts.begun++);
    broadcasts.missing[place] = capacity;
    broadcasts.at[place] = now;
    unfinished += capacity;
  } else {
    fill(&call, c->first + c->asked);
    c->asked_at[c->asked++ % DEPTH_MAX] = now;
    unfinished++;
  }
  send_frame(c, TEXT, call.bytes, call.length);
}

/* ---------------------------------------------------------------- receiving */

static bool is_ping(const char *message, size_t length) {
  const char *ping = options.socketio ? "2" : "{\"type\":6}";
  return length == strlen(ping) && !memcmp(message, ping, length);
}

static void take_welcome(Connection *c, const char *message, size_t length) {
  if (options.socketio) {
    if (length && *message == '0') return; /* the transport's own */
    c->welcome = length > 3 && !memcmp(message, "40{", 3);
  } else {
    c->welcome = length == 2 && !memcmp(message, "{}", 2);
  }
  if (!c->welcome) give_up("refused: %.*s", (int)length, message);
}

static void learn(const char *message, size_t length, uint64_t number) {
  write_digits(text, number);
  if (length > MESSAGE_MAX || !memmem(message, length, text, (size_t)options.size))
    give_up("no answer: %.*s", (int)length, message);
  memcpy(answer.bytes, message, length);
  answer.length = length;
  find_holes(&answer, number);
}

static void take_message(Connection *c, const char *message, size_t length, uint64_t now) {
  if (!c->welcome) {
    take_welcome(c, message, length);
    return;
  }
  if (is_ping(message, length)) {
    if (options.socketio && phase < LEAVING) send_frame(c, TEXT, "3", 1);
    return;
  }
  bool broadcast = options.mode == MODE_BROADCAST;
  if (c->answered == (broadcast ? broadcasts.begun : c->asked))
    give_up("a message nobody asked for: %.*s", (int)length, message);
  uint64_t number = c->first + c->answered;
  if (!answer.length) learn(message, length, number);
  fill(&answer, number);
  if (length != answer.length || memcmp(message, answer.bytes, length))
    give_up("wrong or out of order: %.*s", (int)length, message);

  size_t place = c->answered++ % DEPTH_MAX;
  unfinished--;
  bool complete = !broadcast || !--broadcasts.missing[place];
  if (phase == MEASURING) {
    result.messages++;
    if (complete) record_latency(now - (broadcast ? broadcasts.at[place] : c->asked_at[place]));
  }
  if (complete && (phase == WARMING || phase == MEASURING)) ask(broadcast ? connections : c, now);
}

static void take_payload(Connection *c, const char *data, size_t length, uint64_t now) {
  if (options.socketio) {
    take_message(c, data, length, now);
    return;
  }
  while (length) {
    const char *end = memchr(data, SEPARATOR, length);
    if (!end) give_up("a message without its end");
    size_t record = (size_t)(end - data);
    take_message(c, data, record, now);
    data += record + 1, length -= record + 1;
  }
}

/* Returns the bytes of the frame, or 0 if it has not come whole. */
static size_t take_frame(Connection *c, const uint8_t *data, size_t length, uint64_t now) {
  if (length < 2) return 0;
  size_t header = 2, size = data[1] & LENGTH;
  if (size == 126) {
    if (length < 4) return 0;
    header = 4, size = (size_t)(data[2] << 8 | data[3]);
  }
  if (size == 127 || header + size > MESSAGE_MAX) give_up("a frame too long");
  if (length < header + size) return 0;
  uint8_t opcode = data[0] & OPCODE;
  if (data[0] & RESERVED || data[1] & MASKED || !(data[0] & FIN)) give_up("a broken frame");
  const char *payload = (const char *)data + header;
  if (opcode == CLOSE) {
    give_up("closed by the server");
    drop(c);
  } else if (opcode == PING) {
    if (phase < LEAVING) send_frame(c, PONG, payload, size);
  } else if (opcode != PONG && phase < LEAVING) {
    take_payload(c, payload, size, now); /* text or binary: not all peers tell them apart */
  }
  return header + size;
}

static void receive(Connection *c) {
  static uint8_t inbox[INBOX];
  memcpy(inbox, c->held, c->held_length);
  ssize_t n = recv(c->fd, inbox + c->held_length, sizeof inbox - c->held_length, 0);
  if (n <= 0) {
    give_up(n ? "no bytes: %s" : "connection lost", strerror(errno));
    drop(c);
    return;
  }
  size_t length = c->held_length + (size_t)n, at = 0, step;
  uint64_t now = now_ns();
  while (c->fd >= 0 && (step = take_frame(c, inbox + at, length - at, now))) at += step;
  c->held_length = c->fd < 0 ? 0 : length - at;
  if (c->held_length) memcpy(c->held, inbox + at, c->held_length);
}

/* ---------------------------------------------------------------- opening: one after the other */

static void open_connection(Connection *c) {
  static const char *hello[] = {"{\"protocol\":\"json\",\"version\":1}\x1e", "40"};
  struct timeval stall = {.tv_sec = STALL};
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &stall, sizeof stall);
  setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &stall, sizeof stall);
  struct sockaddr_in address = options.address;
  if (options.second != 0 && (c - connections) % 2) address.sin_port = htons((uint16_t)options.second);
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
    give_up("connect: %s", strerror(errno));
  if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length)
    give_up("could not send the handshake");

  char response[RESPONSE_MAX];
  size_t length = 0;
  do { /* byte by byte: what follows is the frames' */
    if (length == sizeof response - 1) give_up("handshake response too long");
    if (recv(c->fd, response + length, 1, 0) != 1) give_up("connection lost in the handshake");
    response[++length] = 0;
  } while (length < 4 || memcmp(response + length - 4, "\r\n\r\n", 4));
  if (!accepts(response)) give_up("handshake refused: %.40s", response);

  present++;
  const char *first = hello[options.socketio != 0];
  send_frame(c, TEXT, first, strlen(first));
  while (!c->welcome) receive(c);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

static void open_all(void) {
  for (size_t i = 0; i < capacity; i++) {
    /* In a broadcast all share the caller's numbers; else no two clients have one in common. */
    connections[i].first = FIRST_NUMBER + (options.mode == MODE_BROADCAST ? 0 : i * APART);
    open_connection(&connections[i]);
    if (now_ns() >= deadline_at) give_up("deadline passed while opening");
  }
}

/* ---------------------------------------------------------------- the phases
 *
 * broadcast, invoke: OPENING, WARMING, MEASURING, DRAINING, LEAVING
 * idle:              OPENING,                     DRAINING, HOLDING, LEAVING
 */

static void enter(Phase next, uint64_t now, double seconds) {
  phase = next;
  phase_end = now + (uint64_t)(seconds * (double)SECOND);
}

static void begin(uint64_t now) {
  if (options.mode == MODE_IDLE) enter(DRAINING, now, PATIENCE);
  else enter(WARMING, now, options.warmup);
  size_t callers = options.mode == MODE_BROADCAST ? 1 : capacity;
  for (size_t i = 0; i < callers; i++)
    for (size_t n = 0; n < (size_t)options.depth; n++) ask(&connections[i], now);
}

static void leave(uint64_t now) {
  enter(LEAVING, now, (double)GRACE / SECOND);
  for (size_t i = 0; i < capacity; i++) send_frame(&connections[i], CLOSE, "\x03\xe8", 2); /* 1000 */
}

static void end_draining(uint64_t now) {
  if (unfinished) give_up("%zu unanswered after the end", unfinished);
  if (options.mode != MODE_IDLE) {
    leave(now);
    return;
  }
  printf("ready\n");
  fflush(stdout);
  enter(HOLDING, now, options.seconds);
}

static void advance(uint64_t now) {
  bool over = now >= phase_end;
  switch (phase) {
    case OPENING:
      open_all();
      begin(now_ns());
      break;
    case WARMING:
      if (over) enter(MEASURING, measure_begin = now, options.seconds);
      break;
    case MEASURING:
      if (!over) break;
      result.measured = (double)(now - measure_begin) / SECOND;
      enter(DRAINING, now, PATIENCE);
      break;
    case DRAINING:
      if (over || !unfinished) end_draining(now);
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

static void run(void) {
  struct epoll_event events[EVENTS];
  uint64_t now = now_ns();
  deadline_at = now + (uint64_t)(options.deadline * (double)SECOND);
  for (advance(now); phase != DONE; advance(now)) {
    now = now_ns();
    int patience = phase_end <= now ? 0 : (int)((phase_end - now) / 1000000 + 1);
    int n = epoll_wait(poller, events, EVENTS, patience);
    for (int i = 0; i < n; i++) {
      Connection *c = events[i].data.ptr;
      if (!c) end_of_stdin();
      else if (c->fd >= 0) receive(c);
    }
    now = now_ns();
    if (now >= deadline_at) give_up("deadline passed");
  }
}

int main(int count, char **arguments) {
  program = "hub", modes = "broadcast|invoke|idle";
  read_options(count, arguments);
  write_request(arguments[4], ntohs(options.address.sin_port));
  build_call();
  poller = epoll_create1(EPOLL_CLOEXEC);
  capacity = (size_t)options.connections;
  connections = claim(capacity, sizeof *connections);
  if (options.mode == MODE_IDLE) watch_stdin();
  run();
  report("");
  return 0;
}
