//! Names that are near a wrong one.

use strsim::levenshtein;

/// The nearest of `names` if it is near enough to be meant, without regard to case.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (wrong.chars().count() / 3).clamp(1, 3);
    let wrong = wrong.to_lowercase();
    let distances = names.into_iter().map(|name| (levenshtein(&wrong, &name.to_lowercase()), name));
    distances.filter(|(distance, _)| *distance <= allowed).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_name_and_another_word_finds_none() {
        let names = ["add", "process_order", "thumbnail"];
        assert_eq!(nearest("proces_ordr", names), Some("process_order"));
        assert_eq!(nearest("ad", names), Some("add"));
        assert_eq!(nearest("resize", names), None);
    }
}
