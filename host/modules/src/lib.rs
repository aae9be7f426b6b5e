//! Content-addressed modules and the cache of compiled code
