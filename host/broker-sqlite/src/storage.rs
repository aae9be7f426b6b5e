//! The statements that count anew what jobs, workflows and tenants take, by the rules of `umbel_broker::rules::storage`.

/// The bytes that a text refers to in the module store: of a result, and of a spec.
macro_rules! of_result {
    () => {
        "octet_length(result) + iif(substr(result, 1, 9) = '{\"$umbel:',
            coalesce(json_extract(result, '$.\"$umbel:stored\".bytes'), 0), 0)"
    };
}
macro_rules! of_spec {
    () => {
        "octet_length(text) + iif(workflow IS NULL AND substr(text, -3) = '\"}}' AND instr(text, ',\"stored_arguments\":'),
            coalesce(json_extract(text, '$.stored_arguments.bytes'), 0), 0)"
    };
}

/// The bytes of a job's log, and of all of a job. An attempt counts as the broker's `rules::history` says; an object, which releases
/// before schema 11 stored, as the list that it would be, without the names of its fields.
/// A job that failed without an outcome has the failure `upstream_failed`. Null of one without its spec.
macro_rules! log_bytes {
    () => {
        "(SELECT coalesce(sum(octet_length(line)), 0) FROM log WHERE log.rid = job.rid)"
    };
}
macro_rules! job_bytes {
    () => {
        concat!(
            "(SELECT ",
            of_spec!(),
            " FROM spec WHERE spec.rid = job.rid)
            + coalesce((SELECT coalesce(",
            of_result!(),
            ", 0) + coalesce(octet_length(failure), 0) FROM outcome WHERE outcome.rid = job.rid), iif(state = 5, 63, 0))
            + coalesce((SELECT octet_length(progress) FROM progress WHERE progress.rid = job.rid), 0)
            + coalesce((SELECT sum(octet_length(record) + iif(substr(record, 1, 1) = '[',
                iif(json_array_length(record) = 10, 2, 5), iif(json_extract(record, '$.failure') IS NULL, -78, -93)))
                FROM history WHERE history.rid = job.rid), 0)
            + ",
            log_bytes!()
        )
    };
}
macro_rules! workflow_bytes {
    () => {
        "coalesce((SELECT octet_length(text) FROM workflow_spec WHERE workflow_spec.rid = workflow.rid), 0)
            + (SELECT coalesce(sum(octet_length(spec)), 0) FROM template WHERE template.workflow = workflow.rid)"
    };
}

/// What is stored of each tenant, as the rows of `stored` should be since schema 12. The bytes of an entry are those of
/// `rules::kv`, those of a blob those of `rules::blobs`, those of a schedule those of `rules::schedules`.
macro_rules! sums {
    () => {
        "SELECT tenant, sum(jobs) AS jobs, sum(logs) AS logs, sum(documents) AS documents, sum(modules) AS modules,
            sum(kv) AS kv, sum(blobs) AS blobs FROM (
            SELECT tenant, bytes AS jobs, log_bytes AS logs, 0 AS documents, 0 AS modules, 0 AS kv, 0 AS blobs FROM job
            UNION ALL SELECT tenant, bytes, 0, 0, 0, 0, 0 FROM workflow
            UNION ALL SELECT tenant, 0, 0, bytes, iif(kind = 'module', bytes, 0), 0, 0 FROM
                (SELECT tenant, kind, octet_length(name) + octet_length(version) + 1 + octet_length(body) + held AS bytes
                    FROM document)
            UNION ALL SELECT tenant, 0, 0, 0, 0, octet_length(key) + octet_length(value) + 64, 0 FROM kv
            UNION ALL SELECT tenant, 0, 0, 0, 0, 0, bytes + 256 FROM blob
            UNION ALL SELECT tenant, 0, 0, octet_length(name) + octet_length(text) + octet_length(state), 0, 0, 0
                FROM schedule JOIN schedule_definition AS definition ON definition.rid = schedule.rid
        ) GROUP BY tenant"
    };
}

/// The same of schema 9.
macro_rules! sums_of_schema_9 {
    () => {
        "SELECT tenant, sum(jobs) AS jobs, sum(logs) AS logs, sum(documents) AS documents, sum(modules) AS modules FROM (
            SELECT tenant, bytes AS jobs, log_bytes AS logs, 0 AS documents, 0 AS modules FROM job
            UNION ALL SELECT tenant, bytes, 0, 0, 0 FROM workflow
            UNION ALL SELECT tenant, 0, 0, bytes, iif(kind = 'module', bytes, 0) FROM
                (SELECT tenant, kind, octet_length(name) + octet_length(version) + 1 + octet_length(body) + held AS bytes
                    FROM document)
        ) GROUP BY tenant"
    };
}

pub(crate) use {job_bytes, log_bytes, of_result, of_spec, sums, workflow_bytes};

/// Schema 9, which counts all that a file of an older version has.
pub(crate) const STEP: &str = concat!(
    include_str!("storage.sql"),
    "UPDATE job SET bytes = coalesce(",
    job_bytes!(),
    ", 0); UPDATE workflow SET bytes = ",
    workflow_bytes!(),
    "; INSERT INTO stored ",
    sums_of_schema_9!(),
    ";"
);
