//! Imports a CSV file, a blob of any size, into a key-value bucket, line by line, and writes a report, which is a blob again. The
//! tasks below it do with blobs what tests want to see.

use std::io::{BufRead as _, Read as _, Write as _};

use umbel::{Blob, blob, kv, prelude::*};

/// The bucket of the rows.
const BUCKET: &str = "rows";
/// The longest line, bytes: one without an end must not fill the memory.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Lines of the report that say what is wrong.
const MAX_PROBLEMS: u64 = 10_000;

/// What an import did.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct Import {
    pub rows: u64,
    pub skipped: u64,
    /// A CSV file: the lines that were skipped, and why.
    pub report: Blob,
}

/// Stores each row of a CSV file with a header under its first column, as an object by the names of the header. It may be run again:
/// a row that is there is written over.
#[task(max_retries = 3, time_limit = "10m", fuel = "50G")]
pub fn import(
    ctx: &Context,
    /// A CSV file in UTF-8.
    file: Blob,
) -> TaskResult<Import> {
    let mut lines = Lines { reader: file.open()?, number: 0 };
    let header = lines.next()?.ok_or_else(|| Fatal::new("the file is empty").kind("BadFile"))?;
    let names = fields(&header).map_err(|problem| Fatal::new(format!("line 1: {problem}")).kind("BadFile"))?;
    let rows = kv::bucket(BUCKET);
    let mut report = blob::create_typed("text/csv")?;
    writeln!(report, "line,problem")?;
    let (mut stored, mut skipped) = (0, 0);
    while let Some(line) = lines.next()? {
        match row(&names, &line) {
            Ok((key, value)) => {
                rows.set(&key, &value)?;
                stored += 1;
            }
            Err(problem) => {
                skipped += 1;
                if skipped <= MAX_PROBLEMS {
                    writeln!(report, "{},{problem}", lines.number)?;
                }
            }
        }
        if lines.number.is_multiple_of(500) {
            ctx.progress(stored, 0, format!("line {}", lines.number));
        }
    }
    Ok(Import { rows: stored, skipped, report: report.finish()? })
}

/// The lines of a blob, one at a time.
struct Lines {
    reader: blob::BlobReader,
    /// Of the line that was read last, from 1.
    number: u64,
}

impl Lines {
    fn next(&mut self) -> TaskResult<Option<String>> {
        let mut line = Vec::new();
        if self.reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        if line.len() as u64 == MAX_LINE_BYTES {
            let problem = format!("line {} has more than {MAX_LINE_BYTES} bytes", self.number);
            return Err(Fatal::new(problem).kind("BadFile").into());
        }
        let bad = |_| Fatal::new(format!("line {} is not UTF-8", self.number)).kind("BadFile");
        let line = String::from_utf8(line).map_err(bad)?;
        Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
    }
}

type Row = umbel::serde_json::Map<String, umbel::serde_json::Value>;

/// The key and the object of a line.
fn row(names: &[String], line: &str) -> Result<(String, Row), String> {
    let values = fields(line)?;
    if values.len() != names.len() {
        return Err(format!("{} fields instead of {}", values.len(), names.len()));
    }
    let key = values[0].clone();
    if key.is_empty() || key.len() > 512 || key.chars().any(char::is_control) {
        return Err("its first field is no key".to_owned());
    }
    Ok((key, names.iter().cloned().zip(values.into_iter().map(Into::into)).collect()))
}

/// The fields of a line. Quoted ones may have commas and doubled quotes, and no line breaks.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let (mut is_quoted, mut characters) = (false, line.chars().peekable());
    while let Some(c) = characters.next() {
        let field = fields.last_mut().expect("there is one from the start");
        match c {
            '"' if !is_quoted && field.is_empty() => is_quoted = true,
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            ',' if !is_quoted => fields.push(String::new()),
            c => field.push(c),
        }
    }
    if is_quoted { Err("a quote is not closed".to_owned()) } else { Ok(fields) }
}

/// Copies a blob, and says how long it was.
#[task(time_limit = "2m", fuel = "50G")]
pub fn copy(ctx: &Context, from: Blob, #[default(1)] times: u32) -> TaskResult<Blob> {
    let mut to = blob::create()?;
    for _ in 0..times {
        let mut reader = from.open()?;
        let mut piece = vec![0; 256 << 10];
        loop {
            let count = reader.read(&mut piece)?;
            if count == 0 {
                break;
            }
            to.write_all(&piece[..count])?;
            ctx.progress(0, 0, "copying");
        }
    }
    Ok(to.finish()?)
}

/// Writes a blob, reads it back, and fails.
#[task]
pub fn write_and_fail(text: String) -> TaskResult<()> {
    let written = blob::write(&text)?;
    assert_eq!(written.read_text(1 << 20)?, text);
    Err(Fatal::new(written.digest().to_owned()).kind("AsWanted").into())
}

/// Reads the first half of a blob, waits until the entry `go` is there, and reads the rest.
#[task(time_limit = "1m")]
pub fn read_slowly(ctx: &Context, blob: Blob) -> TaskResult<usize> {
    let mut reader = blob.open()?;
    let mut half = vec![0; reader.size() as usize / 2];
    reader.read_exact(&mut half)?;
    ctx.progress(1, 2, "half");
    wait_for("go")?;
    Ok(half.len() + reader.read_all(64 << 20)?.len())
}

/// Writes a blob, and holds it open until the entry `go` is there.
#[task(time_limit = "1m", max_retries = 0)]
pub fn write_slowly(ctx: &Context, text: String) -> TaskResult<Blob> {
    let mut writer = blob::create()?;
    writer.write_all(text.repeat(100_000).as_bytes())?;
    writer.flush()?;
    ctx.progress(1, 2, "half");
    wait_for("go")?;
    Ok(writer.finish()?)
}

/// Writes a blob, and says so much, once the entry `go` is there, that the tenant must have room for it.
#[task(time_limit = "1m", max_retries = 0)]
pub fn write_and_tell(ctx: &Context, text: String) -> TaskResult<String> {
    blob::write(&text)?;
    ctx.progress(1, 2, "half");
    wait_for("go")?;
    Ok(text.repeat(5_000))
}

fn wait_for(key: &str) -> TaskResult<()> {
    while kv::bucket(BUCKET).entry(key)?.is_none() {}
    Ok(())
}

/// Writes blobs of a megabyte until it is stopped; says how many bytes it wrote.
#[task(time_limit = "1m", fuel = "50G")]
pub fn flood(#[default(1_000)] megabytes: u32) -> TaskResult<Vec<Blob>> {
    let mut all = Vec::new();
    for n in 0..megabytes {
        let mut writer = blob::create()?;
        writer.write_all(&vec![n as u8; 1 << 20])?;
        all.push(writer.finish()?);
    }
    Ok(all)
}

umbel::module![
    import, copy, write_and_fail, read_slowly, write_slowly, write_and_tell, flood,
    permissions: ["blob", "kv rows"]
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_stored_by_their_first_field_and_the_report_says_what_was_skipped() {
        let file = blob::fake().put("sku,name,price\nt1,\"Tea, green\",350\nc1,\"5\"\" cup\"\n,x,1\nt2,Tea,2\r\n");
        let done = import(&Context::fake(), file).unwrap();
        assert_eq!((done.rows, done.skipped), (2, 2));
        let report = blob::fake().text(&done.report).unwrap();
        assert_eq!(report, "line,problem\n3,2 fields instead of 3\n4,its first field is no key\n");
        let tea = kv::fake().json("rows", "t1").unwrap();
        assert_eq!(tea, umbel::serde_json::json!({"sku": "t1", "name": "Tea, green", "price": "350"}));
        assert_eq!(kv::fake().json("rows", "t2").unwrap()["price"], "2");
    }

    #[test]
    fn a_file_that_is_no_csv_fails_for_good() {
        for bad in [&b""[..], b"\"a", &[b'x'; 70_000], b"a,b\n\xff,1\n"] {
            let error = import(&Context::fake(), blob::fake().put(bad)).unwrap_err();
            assert_eq!((error.kind(), error.is_fatal()), (Some("BadFile"), true), "{}", error.message());
        }
    }

    #[test]
    fn a_copy_is_the_same_blob() {
        let from = blob::fake().put(vec![7; 1_000_000]);
        assert_eq!(copy(&Context::fake(), from.clone(), 1).unwrap(), from);
        assert_eq!(blob::fake().bytes(&copy(&Context::fake(), from, 2).unwrap()).unwrap().len(), 2_000_000);
    }
}
