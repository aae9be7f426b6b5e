//! A guest that tries to get secrets out. Each task does one thing, and the host must keep the value in.

use umbel::{http, kv, prelude::*, secret};

/// Sends the secret in a header, as it is meant, and hands out whatever comes back, in every way there is.
#[task]
pub fn echo(ctx: &Context, url: String) -> TaskResult<String> {
    let token = secret::placeholder("sent")?;
    let answer = http::get(url).bearer(&token).basic("me", &token).send()?;
    let head = format!("{:?}", answer.header("x-echo"));
    let body = answer.text()?;
    ctx.info(format!("{head} {body}"));
    Ok(format!("{head} {body}"))
}

/// Puts the placeholder where it must not go.
#[task(max_retries = 0)]
pub fn misplace(url: String, how: String) -> TaskResult<String> {
    let token = secret::placeholder("sent")?;
    let request = match how.as_str() {
        "query" => http::get(format!("{url}?key={}", token.as_str())),
        "path" => http::get(format!("{url}{}", token.as_str())),
        "basic" => http::get(url).basic(&token, ""),
        _ => http::get(url).header("x-key", &token),
    };
    request.send()?.text().map_err(Into::into)
}

/// Follows one redirect with the same header.
#[task(max_retries = 0)]
pub fn redirect(url: String) -> TaskResult<String> {
    let token = secret::placeholder("sent")?;
    let answer = http::get(url).bearer(&token).send()?;
    let next = answer.header("location").unwrap_or_default().to_owned();
    http::get(next).bearer(&token).send()?.text().map_err(Into::into)
}

/// Has the value, and writes it wherever a guest can write.
#[task(max_retries = 0)]
pub fn tell(ctx: &Context, how: String) -> TaskResult<String> {
    let key = secret::reveal("key")?;
    let text = key.text().unwrap_or_default().to_owned();
    ctx.info(format!("the key is {text}"));
    ctx.progress(1, 2, format!("have {text}"));
    kv::bucket("loot").set_text("key", &format!("<{text}>"))?;
    match how.as_str() {
        "fail" => Err(Fatal::new(format!("failed with {text}")).kind("told").into()),
        "reject" => Err(Reject::new(format!("rejected with {text}")).into()),
        "panic" => panic!("panicked with {text}"),
        "long" => Ok(format!("{}{text}", "x".repeat(20_000))),
        _ => Ok(format!("have {text}")),
    }
}

umbel::module![
    echo, misplace, redirect, tell,
    permissions: ["http GET http://127.0.0.1:*/", "secret sent", "secret key reveal", "kv loot"],
];
