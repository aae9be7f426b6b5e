//! Calls of a guest that submit workflows, add members to a group or replace the job: counted, bounded, and passed to the
//! host, which reads the canvases.

use crate::{
    attempt::host::{Host, Refused},
    config::WorkflowCallLimits,
};

/// The workflow calls of one attempt, over all calls of its task.
#[derive(Debug)]
pub(crate) struct WorkflowCalls {
    limits: WorkflowCallLimits,
    calls: u32,
    bytes: usize,
    replaced: bool,
    /// The attempt calls its task for each of several items, so there is no single result to replace.
    pub(crate) is_map: bool,
}

impl WorkflowCalls {
    pub(crate) fn new(limits: WorkflowCallLimits) -> Self {
        Self { limits, calls: 0, bytes: 0, replaced: false, is_map: false }
    }

    pub(crate) fn submit(&mut self, host: &dyn Host, canvas: &str) -> Result<String, Refused> {
        self.count(canvas)?;
        host.submit(canvas)
    }

    pub(crate) fn replace(&mut self, host: &dyn Host, canvas: &str) -> Result<(), Refused> {
        self.count(canvas)?;
        if self.replaced {
            return Err(Refused::new("already_replaced", "a job can be replaced only once"));
        }
        if self.is_map {
            let message = "a job of a map or starmap has no single result that could be replaced";
            return Err(Refused::new("canvas_unavailable", message));
        }
        host.replace(canvas)?;
        self.replaced = true;
        Ok(())
    }

    pub(crate) fn add_to_group(&mut self, host: &dyn Host, in_group: bool, members: &str) -> Result<(), Refused> {
        self.count(members)?;
        if !in_group {
            return Err(Refused::new("not_in_group", "this job is not in a group to which members could be added"));
        }
        host.add_to_group(members)
    }

    /// Counts a call. A refused call counts too; its text does not, as nobody keeps it.
    fn count(&mut self, text: &str) -> Result<(), Refused> {
        let WorkflowCallLimits { calls, bytes, total_bytes, .. } = self.limits;
        if self.calls >= calls {
            let message = format!("an attempt may ask for workflows, members and replacements {calls} times");
            return Err(Refused::new("host_limit:canvas_calls", message));
        }
        self.calls += 1;
        if text.len() > bytes {
            let message = format!("a canvas has at most {bytes} bytes, and this one has {}", text.len());
            return Err(Refused::new("host_limit:canvas_bytes", message));
        }
        if text.len() > total_bytes.saturating_sub(self.bytes) {
            let message = format!("the canvases of an attempt have at most {total_bytes} bytes together");
            return Err(Refused::new("host_limit:canvas_bytes", message));
        }
        self.bytes += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Discard, LogLine};
    use umbel_model::Progress;

    struct Agrees;

    impl Host for Agrees {
        fn log(&self, _: LogLine) {}
        fn progress(&self, _: Progress) {}
        fn submit(&self, canvas: &str) -> Result<String, Refused> {
            Ok(canvas.to_owned())
        }
        fn replace(&self, canvas: &str) -> Result<(), Refused> {
            if canvas == "bad" { Err(Refused::new("invalid_canvas", "")) } else { Ok(()) }
        }
        fn add_to_group(&self, _: &str) -> Result<(), Refused> {
            Ok(())
        }
    }

    fn calls_of(calls: u32, bytes: usize, total_bytes: usize) -> WorkflowCalls {
        WorkflowCalls::new(WorkflowCallLimits { calls, bytes, total_bytes, ..WorkflowCallLimits::default() })
    }

    fn kind<T>(result: Result<T, Refused>) -> String {
        result.err().expect("a refusal").kind
    }

    #[test]
    fn calls_and_bytes_are_counted_over_the_attempt() {
        let mut workflow_calls = calls_of(5, 10, 15);
        assert_eq!(workflow_calls.submit(&Agrees, "0123456789").unwrap(), "0123456789");
        assert_eq!(kind(workflow_calls.submit(&Agrees, "0123456789a")), "host_limit:canvas_bytes");
        assert_eq!(kind(workflow_calls.submit(&Agrees, "012345")), "host_limit:canvas_bytes");
        workflow_calls.add_to_group(&Agrees, true, "01234").unwrap();
        workflow_calls.submit(&Agrees, "").unwrap();
        assert_eq!(kind(workflow_calls.submit(&Agrees, "")), "host_limit:canvas_calls");
    }

    #[test]
    fn a_second_replacement_is_refused_unless_the_first_was_too() {
        let mut workflow_calls = calls_of(9, 10, 99);
        assert_eq!(kind(workflow_calls.replace(&Agrees, "bad")), "invalid_canvas");
        workflow_calls.replace(&Agrees, "good").unwrap();
        assert_eq!(kind(workflow_calls.replace(&Agrees, "good")), "already_replaced");
    }

    #[test]
    fn what_has_no_group_or_no_single_result_is_refused() {
        let mut workflow_calls = calls_of(9, 10, 99);
        assert_eq!(kind(workflow_calls.add_to_group(&Agrees, false, "[]")), "not_in_group");
        workflow_calls.is_map = true;
        assert_eq!(kind(workflow_calls.replace(&Agrees, "good")), "canvas_unavailable");
    }

    #[test]
    fn a_host_without_workflows_refuses_them() {
        let mut workflow_calls = calls_of(9, 10, 99);
        assert_eq!(kind(workflow_calls.submit(&Discard, "{}")), "canvas_unavailable");
        assert_eq!(kind(workflow_calls.replace(&Discard, "{}")), "canvas_unavailable");
        assert_eq!(kind(workflow_calls.add_to_group(&Discard, true, "[]")), "canvas_unavailable");
    }
}
