//! The command line of `umbel blob`.

use std::path::PathBuf;

use clap::Subcommand;
use umbel_model::Digest;

use super::PageFlags;

#[derive(Debug, Subcommand)]
pub enum BlobVerb {
    /// Store a file and print its digest; the same bytes twice are one blob
    Put {
        /// The file; `-` is stdin
        file: PathBuf,
        /// Its media type, such as text/csv
        #[arg(long = "type", value_name = "TYPE")]
        content_type: Option<String>,
    },
    /// Download a blob to stdout or a file
    Get {
        digest: Digest,
        /// The file to write; it is there when all of it has come and is the right one
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Only these bytes, such as 0-1023 or 4096-
        #[arg(long, value_parser = range, value_name = "A-B")]
        range: Option<(u64, Option<u64>)>,
    },
    /// List blobs by digest
    #[command(visible_alias = "ls")]
    List(PageFlags),
    /// Show what is known of a blob
    Show { digest: Digest },
    /// Delete a blob to which no job refers
    #[command(visible_alias = "delete")]
    Rm { digest: Digest },
}

/// `A-B` or `A-`.
fn range(text: &str) -> Result<(u64, Option<u64>), String> {
    let wrong = || "write the first and the last byte, such as 0-1023, or 4096- for all from there".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first = first.parse().map_err(|_| wrong())?;
    let last = if last.is_empty() { None } else { Some(last.parse().map_err(|_| wrong())?) };
    if last.is_some_and(|last| last < first) { Err(wrong()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_or_one() {
        assert_eq!((range("0-0"), range("5-")), (Ok((0, Some(0))), Ok((5, None))));
        for wrong in ["", "-", "-5", "5", "6-5", "a-b", "1-2-3"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
