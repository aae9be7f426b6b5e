//! Names of a guest's functions for people: as they were written, and without the functions that a panic goes through.

use super::text::clean;

/// The longest name of a function, bytes.
const MAX_BYTES: usize = 256;
/// What Rust's standard library calls between the code that panics and the trap. What ends with `::` or `_` is the beginning of a name.
const PANIC_MACHINERY: [&str; 21] = [
    "rust_panic",
    "__rustc::rust_panic",
    "__rust_start_panic",
    "__rustc::__rust_start_panic",
    "__rust_abort",
    "__rustc::__rust_abort",
    "rust_begin_unwind",
    "__rustc::rust_begin_unwind",
    "abort",
    "panic_abort::",
    "std::panicking::",
    "std::process::abort",
    "std::sys::",
    "core::panicking::",
    "core::intrinsics::abort",
    "core::option::unwrap_failed",
    "core::option::expect_failed",
    "core::result::unwrap_failed",
    "core::slice::index::",
    "core::str::slice_error_fail",
    "core::cell::panic_already_",
];

/// `shop::charge` of `_ZN4shop6charge17h0123456789abcdefE`; other names stay as they are. Cleaned and cut.
pub(super) fn readable(name: &str) -> String {
    // Names are the guest's: what would be read at length is cut before.
    let name = name.get(..4 * MAX_BYTES).unwrap_or(name);
    let mut out = Bounded(String::new());
    // Its only error is that there is no more room.
    let _ = std::fmt::Write::write_fmt(&mut out, format_args!("{:#}", rustc_demangle::demangle(name)));
    clean(&out.0, MAX_BYTES)
}

/// Removes the innermost frames up to the code that panicked, unless no other frame is left.
pub(super) fn cut_panic_machinery(names: &mut Vec<String>) {
    let is_machinery = |name: &str| {
        let is = |known: &&str| name == *known || known.ends_with([':', '_']) && name.starts_with(known);
        PANIC_MACHINERY.iter().any(is)
    };
    let count = names.iter().take_while(|name| is_machinery(name)).count();
    if count < names.len() {
        names.drain(..count);
    }
}

/// A text of at most `4 * MAX_BYTES`: a mangled name may stand for a much longer one.
struct Bounded(String);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        if self.0.len() + text.len() > 4 * MAX_BYTES {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_they_were_written_and_others_stay() {
        assert_eq!(readable("_ZN4shop6charge17h0123456789abcdefE"), "shop::charge");
        assert_eq!(readable("_RNvC6_123foo3bar"), "123foo::bar");
        assert_eq!(readable("run"), "run");
        assert!(readable(&"x".repeat(100_000)).len() <= MAX_BYTES);
        // Back references that double a name again and again.
        let mut doubled = "_RINvC1a1b".to_owned();
        (0..30).for_each(|_| doubled.push_str("TBa_Ba_E"));
        assert!(readable(&doubled).len() <= MAX_BYTES);
    }

    #[test]
    fn what_a_panic_goes_through_is_cut_and_the_rest_stays() {
        let mut frames = [
            "__rustc::rust_panic",
            "std::panicking::begin_panic_handler",
            "core::option::unwrap_failed",
            "abort_order",
            "std::sys::x",
        ]
        .map(str::to_owned)
        .to_vec();
        cut_panic_machinery(&mut frames);
        assert_eq!(frames, ["abort_order", "std::sys::x"]);
        let mut only = vec!["abort".to_owned()];
        cut_panic_machinery(&mut only);
        assert_eq!(only, ["abort"]);
    }
}
