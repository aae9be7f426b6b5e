//! An uptime checker: asks web sites whether they answer, and tells somebody when one does not.
//!
//! It asks for all sites, because jobs name them; a tenant's grants say which of them it may reach. Run it locally:
//!
//! ```sh
//! umbel run uptime.wasm check https://example.com/ --grant 'http GET https://example.com/'
//! ```

use std::time::Duration;

use umbel::{http, prelude::*};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub url: String,
    pub up: bool,
    /// None: no answer.
    pub status: Option<u16>,
    /// Why it is down, or empty.
    pub problem: String,
}

/// Asks a site once. Up is an answer below 400 within the timeout, with the text if one is wanted. A site that is down is a
/// result and no failure; a request that is not permitted is a failure.
#[task(time_limit = "1m", max_retries = 0)]
pub fn check(
    url: String,
    #[default(10_000)] timeout_ms: u64,
    /// A text that the answer must contain.
    contains: Option<String>,
) -> TaskResult<Report> {
    let asked = http::get(&url).timeout(Duration::from_millis(timeout_ms)).max_body_bytes(1 << 20).send();
    let (status, problem) = match asked {
        Err(error) if !error.may_be_retried() => return Err(error.into()),
        Err(error) => (None, error.to_string()),
        Ok(answer) => {
            let status = answer.status();
            let text = String::from_utf8_lossy(answer.bytes());
            let problem = match contains {
                _ if status >= 400 => format!("it answered {status}"),
                Some(wanted) if !text.contains(&wanted) => "the answer does not have the text".to_owned(),
                _ => String::new(),
            };
            (Some(status), problem)
        }
    };
    Ok(Report { url, up: problem.is_empty(), status, problem })
}

/// Tells a web hook which of some sites are down, and returns how many. The body of a chord over `check`.
#[task(time_limit = "1m", max_retries = 8, retry_backoff = "1s..5m")]
pub fn alert(reports: Vec<Report>, hook: String) -> TaskResult<usize> {
    let down: Vec<Report> = reports.into_iter().filter(|report| !report.up).collect();
    if !down.is_empty() {
        http::post(hook).json(&down).send()?.success()?;
    }
    Ok(down.len())
}

// Any site: the tenant's grants, or `--grant`, say which.
umbel::module![check, alert, permissions: ["http GET,POST https://*:*/", "http GET,POST http://*:*/"]];

#[cfg(test)]
mod tests {
    use umbel::http::{Answer, Fake};

    use super::*;

    const URL: &str = "https://example.com/";

    fn checked(http: &Fake, answer: Answer, contains: Option<&str>) -> Report {
        http.answer("GET", URL, answer);
        check(URL.into(), 1_000, contains.map(str::to_owned)).unwrap()
    }

    #[test]
    fn a_site_is_up_when_it_answers_with_the_text() {
        let report = checked(&Fake::start(), Answer::text(200, "all is well"), Some("well"));
        assert_eq!(report, Report { url: URL.into(), up: true, status: Some(200), problem: String::new() });
    }

    #[test]
    fn a_site_is_down_without_the_text_with_an_error_or_without_an_answer() {
        assert!(!checked(&Fake::start(), Answer::text(200, "hm"), Some("well")).up);
        assert_eq!(checked(&Fake::start(), Answer::new(500), None).problem, "it answered 500");
        let http = Fake::start();
        http.fail("GET", URL, "http_timeout");
        let report = check(URL.into(), 1_000, None).unwrap();
        assert_eq!((report.up, report.status), (false, None));
    }

    #[test]
    fn a_site_that_is_not_permitted_is_a_failure() {
        let _http = Fake::start();
        assert_eq!(check(URL.into(), 1_000, None).unwrap_err().kind(), Some("http_denied"));
    }

    #[test]
    fn the_hook_is_told_what_is_down_and_asked_again_when_it_is_busy() {
        let report = |up| Report { url: URL.into(), up, status: None, problem: String::new() };
        let http = Fake::start();
        assert_eq!(alert(vec![report(true)], "https://hook.test/".into()).unwrap(), 0);
        assert!(http.requests().is_empty());
        http.answer("POST", "https://hook.test/", Answer::new(503).header("retry-after", "30"));
        assert!(alert(vec![report(false)], "https://hook.test/".into()).unwrap_err().is_retryable());
        http.answer("POST", "https://hook.test/", Answer::new(204));
        assert_eq!(alert(vec![report(false), report(true)], "https://hook.test/".into()).unwrap(), 1);
        let sent = http.requests();
        assert!(String::from_utf8_lossy(sent[0].body()).contains(URL));
    }
}
