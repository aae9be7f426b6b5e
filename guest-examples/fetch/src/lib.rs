//! One request of a server on this machine, for the benchmark: what a job with a request costs beyond one without.

use umbel::{http, prelude::*};

/// The status of the answer to one request; 0 without a URL, and then nothing is sent.
#[task(time_limit = "5m", max_retries = 0)]
pub fn fetch(#[default(String::new())] url: String) -> TaskResult<u16> {
    if url.is_empty() {
        return Ok(0);
    }
    Ok(http::get(url).send()?.status())
}

umbel::module![fetch, permissions: ["http GET http://127.0.0.1:*/"]];

#[cfg(test)]
mod tests {
    use umbel::http::{Answer, Fake};

    use super::*;

    #[test]
    fn one_request_is_sent_where_there_is_a_url() {
        let http = Fake::start();
        http.answer("GET", "http://127.0.0.1:1/", Answer::new(204));
        assert_eq!(fetch(String::new()).unwrap(), 0);
        assert_eq!(fetch("http://127.0.0.1:1/".into()).unwrap(), 204);
        assert_eq!(http.requests().len(), 1);
    }
}
