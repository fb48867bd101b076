// What the close codes mean, for those that have a meaning of their own.

const MEANINGS = {
  1000: "normal closure",
  1001: "going away",
  1002: "protocol error",
  1003: "unsupported data",
  1005: "no code was sent",
  1006: "no close frame: lost or refused",
  1007: "invalid data",
  1008: "policy violation",
  1009: "message too big",
  1010: "extension missing",
  1011: "server error",
  1012: "service restart",
  1013: "try again later",
  1014: "bad gateway",
  1015: "TLS failure",
};

export const describeClose = (code) =>
  code in MEANINGS ? `${code} (${MEANINGS[code]})` : `${code}`;
