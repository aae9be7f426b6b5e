//! A sender of web hooks. It signs what it sends with a key that it must have (`reveal`), and shows a token that it never sees.
//!
//! ```sh
//! umbel secret set hook_token --host hooks.example.com
//! umbel secret set hook_key --reveal
//! ```

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use umbel::{http, prelude::*, secret};

/// What the receiver answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delivered {
    pub status: u16,
}

/// Sends an event, with a signature by which the receiver knows that it is from us: `X-Signature: sha256=…` over the body.
#[task(time_limit = "1m", max_retries = 8, retry_backoff = "1s..5m", permissions = ["secret hook_token", "secret hook_key reveal"])]
pub fn deliver(url: String, event: String) -> TaskResult<Delivered> {
    let signature = sign(secret::reveal("hook_key")?.bytes(), event.as_bytes());
    let token = secret::placeholder("hook_token")?;
    let request = http::post(url).bearer(&token).header("x-signature", format!("sha256={signature}"));
    let answer = request.header("content-type", "text/plain").body(event).send()?.success()?;
    Ok(Delivered { status: answer.status() })
}

/// The HMAC-SHA256 of a body, in hex.
fn sign(key: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

umbel::module![deliver, permissions: ["http POST https://*:*/", "http POST http://127.0.0.1:*/"]];

#[cfg(test)]
mod tests {
    use umbel::http::{Answer, Fake};

    use super::*;

    const URL: &str = "https://hooks.example.com/orders";

    #[test]
    fn an_event_is_signed_and_sent_with_the_token() {
        secret::fake().set("hook_key", "key").set("hook_token", "correct horse");
        let http = Fake::start();
        http.answer("POST", URL, Answer::new(204));
        let event = "The quick brown fox jumps over the lazy dog";
        assert_eq!(deliver(URL.into(), event.into()).unwrap(), Delivered { status: 204 });
        let sent = &http.requests()[0];
        assert_eq!(sent.header("authorization"), Some("Bearer correct horse"));
        let signature = "sha256=f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8";
        assert_eq!(sent.header("x-signature"), Some(signature));
    }

    #[test]
    fn without_its_secrets_it_fails_for_good() {
        let _http = Fake::start();
        let error = deliver(URL.into(), "x".into()).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (Some("secret:not_found"), false));
    }
}
