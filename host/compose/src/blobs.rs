//! References to blobs in calls: their form is checked where they were written, and the broker gets their digests.

use umbel_broker::Kept;
use umbel_model::{
    BlobReferences, Digest, NodeArguments,
    blob_reference::{FIELD, MAX_REFERENCES},
};

use crate::{
    Error, FaultKind, Result,
    error::{Faults, refused},
};

/// Notes each object of a value that has the field of a reference and is none.
pub(crate) fn check_references(value: &str, pointer: impl Fn() -> String, faults: &mut Faults) {
    let mut found = BlobReferences::default();
    found.add(value, &mut |bad| faults.add(FaultKind::Arguments, bad.pointer(&pointer()), &*bad.detail));
}

/// Whether a call may refer to blobs.
pub(crate) fn may_refer(arguments: &NodeArguments) -> bool {
    let NodeArguments { args, kwargs, map, starmap, .. } = arguments;
    let mut values =
        args.iter().chain(kwargs.values()).chain(map.iter().flatten()).chain(starmap.iter().flatten().flatten());
    values.any(|value| BlobReferences::may_be_in(value.get()))
}

/// The arguments at `pointer` refer to more blobs than a job may.
pub(crate) fn too_many(pointer: &str) -> Error {
    let detail = format!("the arguments refer to more than {MAX_REFERENCES} blobs (`{FIELD}`)");
    refused(FaultKind::Arguments, pointer, detail)
}

/// The blobs of a node that is stored anew: of its arguments, and of the result that is kept.
pub(crate) fn of_kept(arguments: &str, kept: Option<&Kept>) -> Result<Vec<Digest>> {
    let result = kept.and_then(|kept| kept.result.as_ref());
    let mut all = BlobReferences::of_text(arguments).ok_or_else(|| too_many(""))?;
    for digest in result.and_then(|result| BlobReferences::of_text(result.get())).into_iter().flatten() {
        if !all.contains(&digest) {
            all.push(digest);
        }
    }
    Ok(all)
}
