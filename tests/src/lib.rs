//! Black-box scenarios: the real binary, real Redis, real guests
