//! Each mistake is a compile error that points at the mistake: one file of `ui/` per mistake, its message beside it.

#[test]
fn every_mistake_is_an_error_where_it_was_made() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
