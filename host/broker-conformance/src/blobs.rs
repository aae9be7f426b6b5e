//! Blobs: their records, who refers to them, and how many there may be.

use umbel_broker::rules::blobs::RECORD_BYTES;

use super::{flows::*, *};

/// The digest of blob `n`: its bytes are that one byte.
pub(super) fn blob_digest(n: u8) -> Digest {
    Digest::of(&[n])
}

/// Blob `n`, which is said to have some hundred bytes.
pub(super) fn blob_numbered(n: u8) -> NewBlob {
    let content_type = (n % 2 == 1).then(|| format!("text/{n}"));
    NewBlob { digest: blob_digest(n), bytes: 100 * u64::from(n), content_type }
}

/// The digests of some blobs, a bit each.
pub(super) fn blobs_of(bits: u8) -> Vec<Digest> {
    (0..8).filter(|n| bits & 1 << n > 0).map(blob_digest).collect()
}

/// Job `n`, whose arguments refer to some blobs.
fn refers(n: u64, bits: u8) -> NewJob {
    NewJob { blobs: blobs_of(bits), ..new_job(n) }
}

fn with_blobs(delivery: &Delivery, resolution: Resolution, written: &[u8], bits: u8) -> Settle {
    let written = written.iter().map(|n| blob_numbered(*n)).collect();
    Settle {
        blobs: Some(Box::new(SettledBlobs { written, refers: blobs_of(bits) })),
        ..settle_of(delivery, resolution)
    }
}

impl Subject {
    async fn put(&self, n: u8) -> BlobPut {
        let put = PutBlob { tenant: tenant("t1"), blob: blob_numbered(n) };
        self.broker.put_blob(&put).await.unwrap()
    }

    async fn blob(&self, n: u8) -> Option<BlobRecord> {
        self.broker.blob(&tenant("t1"), blob_digest(n)).await.unwrap()
    }

    /// How many jobs refer to a blob.
    async fn uses(&self, n: u8) -> u64 {
        let blob = self.blob(n).await.expect("the blob is there");
        assert_eq!(blob.unused_since.is_none(), blob.references > 0);
        blob.references
    }

    async fn delete_blob(&self, n: u8) -> BlobDeleted {
        self.broker.delete_blob(&tenant("t1"), blob_digest(n)).await.unwrap()
    }

    async fn collect(&self, retention_ms: u64, max: u32) -> Vec<Digest> {
        let gone = self.broker.collect_blobs(retention_ms, max).await.unwrap();
        gone.into_iter().map(|gone| gone.digest).collect()
    }

    async fn settle_it(&self, settle: Settle) -> Settled {
        self.broker.settle(&[settle], None).await.unwrap().0[0]
    }

    async fn blob_bytes(&self) -> u64 {
        self.broker.stored_bytes(&tenant("t1")).await.unwrap().blobs
    }
}

pub async fn a_blob_is_read_as_it_was_put_by_its_tenant(s: Subject) {
    assert_eq!(s.blob(1).await, None);
    assert_eq!(s.put(1).await, BlobPut::Stored);
    assert_eq!(s.put(2).await, BlobPut::Stored);
    let stored = BlobRecord {
        digest: blob_digest(1),
        bytes: 100,
        content_type: Some("text/1".into()),
        created_at: START_MS,
        references: 0,
        unused_since: Some(START_MS),
    };
    assert_eq!(s.blob(1).await, Some(stored));
    assert_eq!(s.blob(2).await.unwrap().content_type, None);
    assert_eq!(s.broker.blob(&tenant("t2"), blob_digest(1)).await.unwrap(), None);
    assert_eq!(s.broker.delete_blob(&tenant("t2"), blob_digest(1)).await.unwrap(), BlobDeleted::NotFound);
    assert_eq!(s.blob_bytes().await, 300 + 2 * RECORD_BYTES);
    assert_eq!(s.delete_blob(1).await, BlobDeleted::Deleted);
    assert_eq!(s.delete_blob(1).await, BlobDeleted::NotFound);
    assert_eq!((s.blob(1).await, s.blob_bytes().await), (None, 200 + RECORD_BYTES));
}

pub async fn blobs_are_listed_by_digest_in_pages(s: Subject) {
    let mut digests: Vec<Digest> = (0..5).map(blob_digest).collect();
    digests.sort();
    for n in 0..5 {
        s.put(n).await;
    }
    s.broker.put_blob(&PutBlob { tenant: tenant("t2"), blob: blob_numbered(7) }).await.unwrap();
    for max in [1, 2, 5, 6] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = s.broker.blobs(&tenant("t1"), after.as_ref(), max).await.unwrap();
            assert!(page.blobs.len() <= max as usize);
            found.extend(page.blobs.into_iter().map(|blob| blob.digest));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, digests);
    }
}

pub async fn a_blob_that_is_put_again_is_the_same_and_counts_as_used_now(s: Subject) {
    s.put(1).await;
    s.pass(1_000);
    let again = NewBlob { content_type: Some("other/type".into()), ..blob_numbered(1) };
    let put = PutBlob { tenant: tenant("t1"), blob: again };
    assert_eq!(s.broker.put_blob(&put).await.unwrap(), BlobPut::Present);
    let blob = s.blob(1).await.unwrap();
    assert_eq!((blob.content_type.as_deref(), blob.created_at), (Some("text/1"), START_MS));
    assert_eq!(blob.unused_since, Some(START_MS + 1_000));
    assert_eq!(s.blob_bytes().await, 100 + RECORD_BYTES);
    s.add(refers(1, 0b10)).await;
    assert_eq!(s.put(1).await, BlobPut::Present);
    assert_eq!(s.uses(1).await, 1);
}

pub async fn a_job_that_refers_to_a_missing_blob_is_refused(s: Subject) {
    s.put(1).await;
    assert_eq!(s.submit_one(refers(1, 0b110)).await, Submitted::MissingBlob(blob_digest(2)));
    assert_eq!(s.broker.job(&tenant("t1"), job_id(1)).await.unwrap().map(|job| job.id), None);
    assert_eq!(s.uses(1).await, 0);
    // Another tenant's is no other.
    let other = NewJob { tenant: tenant("t2"), ..refers(1, 0b10) };
    assert_eq!(s.submit_one(other).await, Submitted::MissingBlob(blob_digest(1)));
    // Of a batch the others are stored.
    let batch = [new_job(2), refers(3, 0b100), refers(4, 0b10), new_job(5)];
    use Submitted::{Created, Existing, MissingBlob};
    let answers = s.broker.submit(&batch).await.unwrap();
    assert_eq!(answers, [Created, MissingBlob(blob_digest(2)), Created, Created]);
    // What was stored is found, also when the blob is gone.
    let held = s.claim(9).await;
    assert_eq!(numbers(&held), [2, 4, 5]);
    assert_eq!(s.settle(&held[1], succeed("1")).await, Settled::Recorded);
    assert_eq!(s.submit_one(refers(4, 0b10)).await, Existing(job_id(4)));
    assert_eq!(s.uses(1).await, 1);
}

pub async fn a_blob_is_kept_while_jobs_refer_to_it_each_counted_once(s: Subject) {
    s.put(1).await;
    s.put(2).await;
    s.add(refers(1, 0b110)).await;
    s.add(refers(2, 0b10)).await;
    assert_eq!(s.submit_one(refers(1, 0b110)).await, Submitted::Existing(job_id(1)));
    assert_eq!((s.uses(1).await, s.uses(2).await), (2, 1));
    assert_eq!(s.delete_blob(1).await, BlobDeleted::InUse(2));
    assert_eq!(s.collect(0, 10).await, []);
    // Retried and cancelled jobs refer to it still.
    let held = s.claim(2).await;
    s.settle(&held[0], retry(0)).await;
    s.settle(&held[1], fail()).await;
    s.broker.cancel(&tenant("t1"), job_id(1), true).await.unwrap();
    assert_eq!(s.uses(1).await, 2);
    assert_eq!(s.broker.forget(&tenant("t1"), job_id(1)).await.unwrap(), Forgot::Forgotten);
    assert_eq!(s.broker.forget(&tenant("t1"), job_id(1)).await.unwrap(), Forgot::NotFound);
    assert_eq!((s.uses(1).await, s.uses(2).await), (1, 0));
    s.pass(120_000);
    assert_eq!(s.broker.prune(10).await.unwrap(), 1);
    let blob = s.blob(1).await.unwrap();
    assert_eq!((blob.references, blob.unused_since), (0, Some(START_MS + 120_000)));
    assert_eq!(s.delete_blob(1).await, BlobDeleted::Deleted);
}

pub async fn blobs_that_were_unused_for_long_are_collected_those_first_that_are_unused_longest(s: Subject) {
    for n in [3, 1, 2] {
        s.put(n).await;
        s.pass(10);
    }
    s.broker.put_blob(&PutBlob { tenant: tenant("t2"), blob: blob_numbered(7) }).await.unwrap();
    assert_eq!(s.collect(31, 10).await, []);
    assert_eq!(s.collect(20, 10).await, [3, 1].map(blob_digest));
    s.pass(20);
    s.put(2).await;
    s.add(refers(1, 0b100)).await;
    assert_eq!(s.collect(u64::MAX, 10).await, []);
    assert_eq!(s.collect(0, 0).await, []);
    assert_eq!(s.collect(20, 10).await, [blob_digest(7)], "one that is used is not collected");
    assert_eq!(s.collect(0, 10).await, []);
    assert_eq!(s.blob_bytes().await, 200 + RECORD_BYTES);
    assert_eq!(s.broker.stored_bytes(&tenant("t2")).await.unwrap().blobs, 0);
    let delivery = s.claim_one().await;
    s.settle(&delivery, succeed("1")).await;
    s.broker.forget(&tenant("t1"), job_id(1)).await.unwrap();
    assert_eq!(s.collect(1, 10).await, []);
    assert_eq!(s.collect(0, 10).await, [blob_digest(2)]);
}

/// A chain whose first step refers to blob 1, and whose second one to blobs 1 and 2.
const CHAIN: &str = r#"{"chain":[{"task":"a","options":{"blobs":2}},{"task":"b","options":{"blobs":6}}]}"#;

pub async fn nodes_refer_to_blobs_until_their_workflow_is_deleted(s: Subject) {
    let f = flow(1, CHAIN);
    s.put(1).await;
    s.broker.stage_workflow(&f.head).await.unwrap();
    let (t, id) = (&f.head.tenant, f.head.id);
    let missing = WorkflowSubmitted::MissingBlob(blob_digest(2));
    assert_eq!(s.broker.stage_nodes(t, id, 0, &f.nodes).await.unwrap(), missing);
    assert_eq!(s.uses(1).await, 0, "all or nothing");
    s.put(2).await;
    for _ in 0..2 {
        // Repeated, they count once.
        assert_eq!(s.broker.stage_nodes(t, id, 0, &f.nodes).await.unwrap(), WorkflowSubmitted::Created);
        assert_eq!((s.uses(1).await, s.uses(2).await), (2, 1));
    }
    s.broker.start_workflow(t, id).await.unwrap();
    // The first step writes blob 3 and refers to it: the second one can read it, however long it waits.
    let first = s.claim_one().await;
    assert_eq!(s.settle_it(with_blobs(&first, succeed("1"), &[3], 0b1000)).await, Settled::Recorded);
    s.pass(600_000);
    assert_eq!(s.collect(0, 10).await, []);
    let second = s.claim_one().await;
    assert_eq!(s.settle(&second, succeed("2")).await, Settled::Recorded);
    assert_eq!((s.uses(1).await, s.uses(2).await, s.uses(3).await), (2, 1, 1));
    assert_eq!(s.broker.forget_workflow(t, id).await.unwrap(), WorkflowForgot::Forgotten);
    assert_eq!((s.uses(1).await, s.uses(2).await, s.uses(3).await), (0, 0, 0));
    assert_eq!(s.collect(0, 10).await.len(), 3);
}

pub async fn a_workflow_that_is_never_started_gives_its_blobs_back(s: Subject) {
    let f = flow(1, CHAIN);
    s.put(1).await;
    s.put(2).await;
    s.broker.stage_workflow(&f.head).await.unwrap();
    s.broker.stage_nodes(&f.head.tenant, f.head.id, 0, &f.nodes).await.unwrap();
    assert_eq!((s.uses(1).await, s.uses(2).await), (2, 1));
    s.pass(STAGED_TTL_MS);
    while s.broker.prune(1).await.unwrap() > 0 {}
    assert_eq!((s.uses(1).await, s.uses(2).await), (0, 0));
}

pub async fn blobs_of_an_attempt_exist_only_if_it_succeeded(s: Subject) {
    for n in 1..=5 {
        s.add(new_job(n)).await;
    }
    let held = s.claim(5).await;
    for (delivery, resolution) in held.iter().zip([fail(), retry(60_000), Resolution::Revoke, Resolution::Release]) {
        let settle = with_blobs(delivery, resolution, &[1], 0b10);
        assert_eq!(s.settle_it(settle).await, Settled::Recorded);
        assert_eq!(s.blob(1).await, None);
    }
    s.put(2).await;
    s.pass(1_000);
    let success = with_blobs(&held[4], succeed("1"), &[1, 2], 0b10);
    assert_eq!(s.settle_it(success.clone()).await, Settled::Recorded);
    assert_eq!(s.settle_it(success.clone()).await, Settled::AlreadyDone);
    assert_eq!((s.uses(1).await, s.uses(2).await), (1, 0));
    assert_eq!(s.blob(1).await.unwrap().content_type.as_deref(), Some("text/1"));
    assert_eq!(s.blob(2).await.unwrap().unused_since, Some(START_MS + 1_000), "it counts as put again");
    assert_eq!(s.blob_bytes().await, 300 + 2 * RECORD_BYTES);
    let late = with_blobs(&held[0], succeed("1"), &[3], 0);
    assert_eq!(s.settle_it(late).await, Settled::Lost);
    assert_eq!(s.blob(3).await, None);
}

pub async fn settles_with_blobs_and_without_are_recorded_in_one_call(s: Subject) {
    for n in 1..=5 {
        s.add(new_job(n)).await;
    }
    let held = s.claim(5).await;
    let settles = [
        with_blobs(&held[0], succeed("1"), &[1], 0b10),
        settle_of(&held[1], succeed("2")),
        with_blobs(&held[2], succeed("3"), &[], 0b10_0000),
        settle_of(&held[3], succeed("4")),
        with_blobs(&held[4], succeed("5"), &[2], 0b100),
    ];
    let (settled, _) = s.broker.settle(&settles, None).await.unwrap();
    let missing = Settled::MissingBlob(blob_digest(5));
    assert_eq!(settled, [Settled::Recorded, Settled::Recorded, missing, Settled::Recorded, Settled::Recorded]);
    for (delivery, result) in held.iter().zip([Some("1"), Some("2"), None, Some("4"), Some("5")]) {
        let job = s.broker.job(&delivery.tenant, delivery.id).await.unwrap().unwrap();
        assert_eq!(job.result.as_ref().map(|text| text.get()), result);
    }
    assert_eq!((s.uses(1).await, s.uses(2).await), (1, 1));
}

pub async fn a_result_refers_to_blobs_as_long_as_its_job_is_kept(s: Subject) {
    s.put(1).await;
    s.add(refers(1, 0b10)).await;
    let delivery = s.claim_one().await;
    let missing = with_blobs(&delivery, succeed("1"), &[3], 0b1110);
    assert_eq!(s.settle_it(missing).await, Settled::MissingBlob(blob_digest(2)));
    assert_eq!(s.blob(3).await, None, "nothing was changed");
    assert_eq!(s.renew(&delivery).await, LeaseState::Held);
    s.put(2).await;
    let result = with_blobs(&delivery, succeed("1"), &[3], 0b1110);
    assert_eq!(s.settle_it(result).await, Settled::Recorded);
    assert_eq!((s.uses(1).await, s.uses(2).await, s.uses(3).await), (1, 1, 1), "argument and result count once");
    s.pass(60_000);
    assert_eq!(s.broker.prune(10).await.unwrap(), 1);
    assert_eq!((s.uses(1).await, s.uses(2).await, s.uses(3).await), (0, 0, 0));
}

pub async fn what_a_guest_adds_may_refer_to_what_it_wrote_and_to_nothing_that_is_missing(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    let growth = || Some(Box::new(Growth { workflows: vec![flow(1, CHAIN)], members: None }));
    let part = Settle { growth: growth(), ..with_blobs(&delivery, succeed("1"), &[1], 0) };
    assert_eq!(s.settle_it(part).await, Settled::MissingBlob(blob_digest(2)));
    let none = Settle { growth: growth(), ..settle_of(&delivery, succeed("1")) };
    assert_eq!(s.settle_it(none).await, Settled::MissingBlob(blob_digest(1)));
    assert_eq!(s.blob(1).await, None);
    let all = Settle { growth: growth(), ..with_blobs(&delivery, succeed("1"), &[1, 2], 0) };
    assert_eq!(s.settle_it(all).await, Settled::Recorded);
    assert_eq!((s.uses(1).await, s.uses(2).await), (2, 1));
}

pub async fn blobs_have_room_for_so_many_and_for_so_many_bytes(s: Subject) {
    let max = limits().max_blobs;
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    for n in 0..max as u8 - 1 {
        assert_eq!(s.put(n).await, BlobPut::Stored);
    }
    let two = with_blobs(&delivery, succeed("1"), &[6, 7], 0);
    assert_eq!(s.settle_it(two).await, Settled::TooManyBlobs(max));
    let limit = |bytes| StorageLimits { blobs: bytes, ..StorageLimits::default() };
    let used = s.blob_bytes().await;
    s.broker.set_storage_limits(&tenant("t1"), limit(used + 600 + RECORD_BYTES - 1)).await.unwrap();
    let one = || with_blobs(&delivery, succeed("1"), &[6, 1], 0);
    assert_eq!(s.settle_it(one()).await, Settled::BlobStorageFull);
    assert_eq!(s.put(6).await, BlobPut::StorageFull);
    assert_eq!(s.put(1).await, BlobPut::Present);
    assert_eq!((s.blob(6).await, s.renew(&delivery).await), (None, LeaseState::Held));
    s.broker.set_storage_limits(&tenant("t1"), limit(used + 600 + RECORD_BYTES)).await.unwrap();
    assert_eq!(s.settle_it(one()).await, Settled::Recorded);
    assert_eq!(s.put(7).await, BlobPut::TooMany(max));
    assert_eq!(
        s.broker.put_blob(&PutBlob { tenant: tenant("t2"), blob: blob_numbered(7) }).await.unwrap(),
        BlobPut::Stored
    );
    assert_eq!(s.delete_blob(6).await, BlobDeleted::Deleted);
    assert_eq!(s.put(6).await, BlobPut::Stored);
}
