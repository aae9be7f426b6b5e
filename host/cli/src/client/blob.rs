//! `umbel blob`, and arguments that are blobs: `@blob:FILE`.

use std::{
    fs,
    io::{self, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{json, value::RawValue};
use umbel_client::{BlobDownload, BlobInfo};
use umbel_model::Digest;

use super::{Context, arguments};
use crate::{
    Exit, Failure, Result,
    args::{BlobVerb, Format},
    output::{bytes_text, closed},
};

/// Bytes of a file that are read at once.
const PIECE: usize = 64 << 10;
/// Pieces that wait to be sent.
const AHEAD: usize = 4;
const FIELDS: &str =
    "digest, size = size_bytes, type = content_type, created = created_at, references, unused since = unused_since";
const COLUMNS: &str =
    "DIGEST, SIZE = size_bytes, TYPE = content_type, CREATED = created_at, REFERENCES, UNUSED SINCE = unused_since";
/// How an argument begins that is the blob of a file.
const ARGUMENT: &str = "@blob:";

pub async fn run(ctx: &Context, verb: BlobVerb) -> Result {
    let terminal = &ctx.terminal;
    match verb {
        BlobVerb::Put { file, content_type } => {
            let blob = put(ctx, &file, content_type.as_deref()).await?;
            let body =
                json!({ "digest": blob.digest, "size_bytes": blob.size_bytes, "content_type": blob.content_type });
            terminal.note(&format!("{}: as an argument {}", bytes_text(blob.size_bytes), json!(blob.reference())));
            terminal.brief(&blob.digest, &body.to_string())
        }
        BlobVerb::Get { digest, to, range } => get(ctx, digest, to, range).await,
        BlobVerb::List(page) => ctx.list("/v1/blobs", &[], &page, COLUMNS).await,
        BlobVerb::Show { digest } => ctx.show(ctx.client.get(format!("/v1/blobs/{digest}/info")), FIELDS).await,
        BlobVerb::Rm { digest } => match ctx.client.delete_blob(&digest.to_string()).await? {
            true => terminal.line(&digest.to_string()),
            false => Err(Failure::new("blob_not_found", format!("there is no blob {digest}")).exit(Exit::NotFound)),
        },
    }
}

/// Uploads a file, or stdin for `-`, as it is read.
pub async fn put(ctx: &Context, file: &Path, content_type: Option<&str>) -> Result<BlobInfo> {
    let failed = |error: io::Error| Failure::file(file.display(), &error);
    let (source, size): (Box<dyn Read + Send>, Option<u64>) = if file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let opened = fs::File::open(file).map_err(failed)?;
        let meta = opened.metadata().map_err(failed)?;
        if meta.is_dir() {
            return Err(Failure::usage(format!("{} is a folder", file.display())));
        }
        // That of a pipe is not known.
        (Box::new(opened), meta.is_file().then_some(meta.len()))
    };
    let bar = match size {
        Some(size) => ctx.terminal.bytes_bar(size, "uploading"),
        None => ctx.terminal.spinner("uploading"),
    };
    let pieces = pieces(source, move |sent| bar.inc(sent));
    Ok(ctx.client.put_blob_stream(pieces, size, content_type).await?)
}

/// What a source has, read on a thread of its own.
fn pieces(
    mut source: Box<dyn Read + Send>,
    progress: impl Fn(u64) + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = tokio::sync::mpsc::channel(AHEAD);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match source.read(&mut piece) {
                Ok(0) => return,
                Ok(count) => {
                    piece.truncate(count);
                    progress(count as u64);
                    Ok(Bytes::from(piece))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = read.is_err();
            if sender.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

async fn get(ctx: &Context, digest: Digest, to: Option<PathBuf>, range: Option<(u64, Option<u64>)>) -> Result {
    let (client, text) = (&ctx.client, digest.to_string());
    // Before anything is downloaded: what is in it could control the terminal.
    if to.is_none() && io::stdout().is_terminal() {
        let failure = Failure::usage("a blob is not written to a terminal");
        return Err(failure.help("write `--to FILE`, or send it into a pipe"));
    }
    let mut download = match range {
        None => client.get_blob(&text).await?,
        Some((first, last)) => client.get_blob_range(&text, first, last).await?,
    };
    let Some(file) = to else {
        let mut stdout = io::stdout().lock();
        copy(&mut download, |piece| stdout.write_all(piece).map_err(closed)).await?;
        return stdout.flush().map_err(closed);
    };
    let failed = |error: io::Error| Failure::file(file.display(), &error);
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unfinished = folder.join(format!(".{}.part{}", &digest.hex()[..16], std::process::id()));
    let written = async {
        let mut part = fs::File::create_new(&unfinished).map_err(failed)?;
        let size = copy(&mut download, |piece| part.write_all(piece).map_err(failed)).await?;
        part.sync_all().map_err(failed)?;
        fs::rename(&unfinished, &file).map_err(failed)?;
        Ok::<_, Failure>(size)
    };
    let written = written.await;
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    ctx.terminal.note(&format!("{}: {}", file.display(), bytes_text(written?)));
    Ok(())
}

/// Passes the bytes on as they come; how many they were.
async fn copy(download: &mut BlobDownload, mut write: impl FnMut(&[u8]) -> Result) -> Result<u64> {
    let mut size = 0;
    while let Some(piece) = download.next().await? {
        size += piece.len() as u64;
        write(&piece)?;
    }
    Ok(size)
}

/// An argument as it was typed. `@blob:FILE` uploads the file and refers to it.
pub async fn argument(ctx: &Context, text: &str) -> Result<Box<RawValue>> {
    let Some(file) = text.strip_prefix(ARGUMENT) else { return arguments::given(text) };
    let blob = put(ctx, Path::new(file), None).await?;
    if ctx.terminal.format == Format::Table {
        ctx.terminal.note(&format!("{file}: {}", blob.digest));
    }
    arguments::raw(&blob.reference())
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_source_is_read_in_pieces_and_its_error_is_passed_on() {
        let read = |source: Box<dyn Read + Send>| async {
            pieces(source, |_| {}).map(|piece| piece.map(|piece| piece.len())).collect::<Vec<_>>().await
        };
        let all = read(Box::new(io::repeat(7).take(150_000))).await;
        assert_eq!(all.iter().map(|piece| *piece.as_ref().unwrap()).sum::<usize>(), 150_000);
        assert!(all.len() >= 3);
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let broken = read(Box::new(Broken)).await;
        assert!(matches!(&broken[..], [Err(_)]), "{broken:?}");
    }
}
