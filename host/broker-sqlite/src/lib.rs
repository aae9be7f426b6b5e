//! The embedded broker on SQLite
