//! Large values of jobs on a real folder.
#![allow(clippy::unwrap_used)]

use std::fs;

use futures::TryStreamExt as _;
use umbel_model::{JobId, LargeValue, TenantId};
use umbel_modules::{Error, ModuleStore, VALUE_PIECE_BYTES, ValueEntry};

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn job(n: u128) -> JobId {
    JobId::from_parts(1_000, n)
}

async fn all(store: &ModuleStore) -> Vec<ValueEntry> {
    let mut values: Vec<ValueEntry> = store.values().try_collect().await.unwrap();
    values.sort_by_key(|value| (value.tenant.clone(), value.job, value.bytes));
    values
}

#[tokio::test]
async fn a_value_comes_back_to_its_own_tenant_and_to_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let text = format!("\"{}\"", "ä".repeat(100_000));
    let stored = store.put_value(&tenant("a"), job(1), &text).await.unwrap();
    assert_eq!((stored.bytes, stored.of), (200_002, job(1)));
    assert_eq!(store.value(&tenant("a"), &stored).await.unwrap(), text);
    assert!(matches!(store.value(&tenant("b"), &stored).await, Err(Error::ValueMissing { .. })));
    let of_another_job = LargeValue { of: job(2), ..stored };
    assert!(matches!(store.value(&tenant("a"), &of_another_job).await, Err(Error::ValueMissing { .. })));
}

#[tokio::test]
async fn a_value_that_was_changed_or_is_of_another_size_is_not_given_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let stored = store.put_value(&tenant("a"), job(1), "[1,2]").await.unwrap();
    let lying = LargeValue { bytes: 3, ..stored.clone() };
    assert!(matches!(store.value(&tenant("a"), &lying).await, Err(Error::ValueCorrupted { .. })));
    let path = folder.path().join(format!("values/a/{}/{}", job(1), stored.sha256.hex()));
    fs::write(&path, "[1,3]").unwrap();
    assert!(matches!(store.value(&tenant("a"), &stored).await, Err(Error::ValueCorrupted { .. })));
    store.put_value(&tenant("a"), job(1), "[1,2]").await.unwrap();
    assert_eq!(store.value(&tenant("a"), &stored).await.unwrap(), "[1,2]");
}

#[tokio::test]
async fn values_are_listed_with_their_jobs_and_deleted_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    assert!(all(&store).await.is_empty());
    store.put_bytes("a module".into(), 100).await.unwrap();
    let first = store.put_value(&tenant("a"), job(1), "1").await.unwrap();
    store.put_value(&tenant("a"), job(1), "22").await.unwrap();
    store.put_value(&tenant("b"), job(1), "333").await.unwrap();
    let copy = store.copy_value(&tenant("a"), &first, job(2)).await.unwrap();
    let found: Vec<_> = all(&store).await.iter().map(|v| (v.tenant.to_string(), v.job, v.bytes)).collect();
    let value = |tenant: &str, n, bytes| (tenant.to_owned(), job(n), bytes);
    assert_eq!(found, [value("a", 1, 1), value("a", 1, 2), value("a", 2, 1), value("b", 1, 3)]);
    assert_eq!(store.delete_values(&tenant("a"), job(1)).await.unwrap(), 2);
    assert_eq!(store.delete_values(&tenant("a"), job(1)).await.unwrap(), 0);
    assert_eq!(store.value(&tenant("a"), &copy).await.unwrap(), "1");
    assert!(!folder.path().join(format!("values/a/{}", job(1))).exists());
    assert_eq!(all(&store).await.len(), 2);
}

#[tokio::test]
async fn values_belong_to_the_first_who_said_so_and_the_mark_is_no_value() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    assert_eq!(store.values_owner().await.unwrap(), None);
    assert_eq!(store.claim_values("first").await.unwrap(), "first");
    assert_eq!(store.claim_values("second").await.unwrap(), "first");
    assert_eq!(store.values_owner().await.unwrap().as_deref(), Some("first"));
    assert!(all(&store).await.is_empty());
    // The last value takes its empty folders with it, and not the mark.
    store.put_value(&tenant("a"), job(1), "1").await.unwrap();
    store.delete_values(&tenant("a"), job(1)).await.unwrap();
    assert_eq!(store.claim_values("second").await.unwrap(), "first");
    assert_ne!(ModuleStore::new_owner().unwrap(), ModuleStore::new_owner().unwrap());
}

#[tokio::test]
async fn to_forget_a_job_lists_its_own_folder_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let other = store.put_value(&tenant("a"), job(2), "22").await.unwrap();
    store.put_value(&tenant("a"), job(1), "1").await.unwrap();
    // A link that leads in a circle: whoever lists this folder fails.
    let others = folder.path().join(format!("values/a/{}", job(2)));
    std::os::unix::fs::symlink(&others, others.join("circle")).unwrap();
    assert!(store.values().try_collect::<Vec<_>>().await.is_err());
    assert_eq!(store.delete_values(&tenant("a"), job(1)).await.unwrap(), 1);
    assert_eq!(store.value(&tenant("a"), &other).await.unwrap(), "22");
}

#[tokio::test]
async fn a_value_is_read_in_pieces_and_one_that_is_damaged_is_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let store = ModuleStore::local(folder.path()).await.unwrap();
    let text = format!("\"{}\"", "é".repeat(VALUE_PIECE_BYTES));
    let stored = store.put_value(&tenant("a"), job(1), &text).await.unwrap();
    let pieces: Vec<bytes::Bytes> =
        store.value_pieces(&tenant("a"), &stored).await.unwrap().try_collect().await.unwrap();
    assert_eq!(pieces.iter().map(bytes::Bytes::len).collect::<Vec<_>>(), [VALUE_PIECE_BYTES, VALUE_PIECE_BYTES, 2]);
    assert!(pieces.concat() == text.as_bytes());
    let refused = async |stored: &LargeValue, of: &str| store.value_pieces(&tenant(of), stored).await.err().unwrap();
    assert!(matches!(refused(&stored, "b").await, Error::ValueMissing { .. }));
    assert!(matches!(refused(&LargeValue { bytes: 5, ..stored.clone() }, "a").await, Error::ValueCorrupted { .. }));
    let path = folder.path().join(format!("values/a/{}/{}", job(1), stored.sha256.hex()));
    let mut bytes = text.clone().into_bytes();
    bytes[VALUE_PIECE_BYTES + 5] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(refused(&stored, "a").await, Error::ValueCorrupted { .. }));
    // Deleted while it is read.
    fs::write(&path, &text).unwrap();
    let mut pieces = store.value_pieces(&tenant("a"), &stored).await.unwrap();
    assert!(pieces.try_next().await.unwrap().is_some());
    store.delete_values(&tenant("a"), job(1)).await.unwrap();
    assert!(pieces.try_next().await.is_err());
}
