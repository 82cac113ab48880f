//! The words of a server's error, in all its forms: JSON under many names, an event, or a page.

use serde_json::{Map, Value};

use super::{
    page,
    sse::{self, EventReader},
};
use crate::json::parse_lenient;

/// The longest text that is kept of an error, in bytes.
const MAX_ERROR_TEXT: usize = 16 << 10;

/// Keys whose value describes an error, in lower case and without `_` and `-`; the first that has words counts.
const MESSAGE_KEYS: [&str; 16] = [
    "message",
    "msg",
    "detail",
    "details",
    "errormsg",
    "errormessage",
    "errmsg",
    "statusmsg",
    "statusmessage",
    "retmsg",
    "errordescription",
    "failurereason",
    "faultstring",
    "description",
    "reason",
    "title",
];

/// Keys whose value may be an object or a list with such keys.
const ERROR_KEYS: [&str; 9] =
    ["error", "errors", "err", "exception", "fault", "baseresp", "header", "response", "status"];

/// Keys whose value may be the code of an error.
const CODE_KEYS: [&str; 9] =
    ["code", "errorcode", "errcode", "statuscode", "status", "errno", "ret", "retcode", "returncode"];

/// What a message or a code says when all is well.
const SUCCESS_WORDS: [&str; 6] = ["", "ok", "success", "succeed", "successful", "成功"];

/// The message of an error body in one line: the words under the usual keys of JSON, the title of a page, or the text as it is.
#[must_use]
pub fn error_message(body: &[u8]) -> String {
    let text = if let Ok(value) = parse_lenient::<Value>(body) {
        message_of_json(&value)
    } else if let Some(message) = message_of_parts(body) {
        message
    } else {
        let text = String::from_utf8_lossy(body);
        page::page_text(&text).unwrap_or_else(|| text.into_owned())
    };
    to_line(&text)
}

/// The message of an event or a document that holds an error in place of its content: a message with a code, `"type":"error"`,
/// `"success":false`, and the like. `None`: it holds none.
#[must_use]
pub fn find_enclosed_error(data: &[u8]) -> Option<String> {
    if !may_enclose_error(data) {
        return None;
    }
    let value = parse_lenient::<Value>(data).ok()?;
    let object = value.as_object()?;
    let words = find_words(&value).filter(|words| !is_success(words));
    let code = find_code(object);
    let named = ["type", "object", "event", "status"].iter().any(|key| names_error(object, key));
    let refused = ["success", "ok"].iter().any(|key| at(object, key) == Some(&Value::Bool(false)));
    let failed = words.is_some() && (code.is_some() || refused) || named;
    failed.then(|| to_line(&words.map_or_else(|| value.to_string(), |words| with_code(words, code))))
}

/// Whether [`find_enclosed_error`] may find anything: all that it looks for has one of a few words in its key or value. Most chunks
/// without a token hold none of them, and need not be parsed for it.
fn may_enclose_error(data: &[u8]) -> bool {
    data.iter().enumerate().any(|(at, byte)| {
        let begins = |word: &str| data[at..].get(..word.len()).is_some_and(|d| d.eq_ignore_ascii_case(word.as_bytes()));
        match byte {
            b'c' | b'C' => begins("code"),
            b'e' | b'E' => begins("err"),
            b'f' | b'F' => begins("fail") || begins("false"),
            b'r' | b'R' => begins("ret"),
            b's' | b'S' => begins("status"),
            // A letter that is escaped.
            b'\\' => begins("\\u"),
            _ => false,
        }
    })
}

/// The words under the usual keys for an error, if this is JSON that has any.
#[must_use]
pub fn find_error_words(data: &[u8]) -> Option<String> {
    let value = parse_lenient::<Value>(data).ok().filter(Value::is_object)?;
    find_words(&value).map(|words| to_line(&words))
}

fn message_of_json(value: &Value) -> String {
    let Some(object) = value.as_object() else {
        return find_words(value).unwrap_or_else(|| value.to_string());
    };
    // A code outside HTTP's says something that the status of the response does not.
    let code = find_code(object).filter(|code| !is_http_status(code));
    match (find_words(value), at(object, "error").filter(|error| error.is_object())) {
        (Some(words), None) => with_code(words, code),
        (Some(words), Some(_)) => words,
        (None, Some(error)) => error.to_string(),
        (None, None) => value.to_string(),
    }
}

/// The message of the first event or line that has one.
fn message_of_parts(body: &[u8]) -> Option<String> {
    let mut found = None;
    if sse::may_start_stream(body) {
        let mut events = EventReader::default();
        // An event that is too large is as if absent.
        let _ = events.push(&[body, b"\n\n"].concat(), |event, _| {
            if found.is_none() && !event.data.is_empty() && event.data != b"[DONE]" {
                found = Some(error_message(event.data));
            }
        });
        return found;
    }
    let lines = body.split(|byte| *byte == b'\n').filter_map(|line| parse_lenient::<Value>(line).ok());
    lines.filter(Value::is_object).map(|value| message_of_json(&value)).next()
}

/// The value under a name in lower case, however its key is written.
fn at<'v>(object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    let is_name = |key: &str| {
        let letters = key.bytes().filter(|byte| !matches!(byte, b'_' | b'-'));
        letters.map(|byte| byte.to_ascii_lowercase()).eq(name.bytes())
    };
    object.iter().find(|(key, _)| is_name(key)).map(|(_, value)| value)
}

/// The words of an error: a string, or what an object or a list has under the usual keys.
fn find_words(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        Value::Array(list) => {
            let words: Vec<String> = list.iter().filter_map(find_words).collect();
            (!words.is_empty()).then(|| words.join("; "))
        }
        Value::Object(object) => {
            let mut nested = ERROR_KEYS.iter().filter_map(|key| at(object, key)).filter(|value| !value.is_string());
            if let Some(words) = nested.find_map(find_words) {
                return Some(words);
            }
            let message = MESSAGE_KEYS.iter().find_map(|key| find_words(at(object, key)?));
            let error = at(object, "error").and_then(Value::as_str).filter(|error| !error.trim().is_empty());
            match (error, message) {
                (Some(error), Some(message)) if message.contains(error) => Some(message),
                (Some(error), Some(message)) if !error.contains(&message) => Some(format!("{error}: {message}")),
                (Some(error), _) => Some(error.to_owned()),
                (None, message) => Some(with_place(object, message?)),
            }
        }
        _ => None,
    }
}

/// A message with the place in the request that it is about, as validators report it: `"loc":["body","model"]`.
fn with_place(object: &Map<String, Value>, message: String) -> String {
    let Some(place) = at(object, "loc").and_then(Value::as_array) else { return message };
    let steps = place.iter().map(|step| step.as_str().map_or_else(|| step.to_string(), str::to_owned));
    format!("{}: {message}", steps.collect::<Vec<_>>().join("."))
}

/// The code of an error, here or one level below.
fn find_code(object: &Map<String, Value>) -> Option<String> {
    let below = ERROR_KEYS.iter().filter_map(|key| at(object, key)?.as_object());
    std::iter::once(object).chain(below).find_map(|object| {
        CODE_KEYS.iter().find_map(|key| {
            let code = match at(object, key)? {
                Value::Number(number) => number.to_string(),
                // There the word names a phase more often than an error.
                Value::String(text) if *key != "status" || is_number(text) => text.trim().to_owned(),
                _ => return None,
            };
            (!is_success(&code) && !is_zero_or_success(&code)).then_some(code)
        })
    })
}

fn is_success(words: &str) -> bool {
    SUCCESS_WORDS.contains(&words.trim().to_lowercase().as_str())
}

fn is_number(code: &str) -> bool {
    code.trim().parse::<f64>().is_ok()
}

fn is_zero_or_success(code: &str) -> bool {
    code.parse::<f64>().is_ok_and(|code| code == 0.0 || (200.0..300.0).contains(&code))
}

fn is_http_status(code: &str) -> bool {
    code.parse::<u16>().is_ok_and(|code| (100..600).contains(&code))
}

fn with_code(words: String, code: Option<String>) -> String {
    match code {
        Some(code) if !words.contains(&code) => format!("{words} (code {code})"),
        _ => words,
    }
}

/// Whether the value at `key` is the word for an error.
fn names_error(object: &Map<String, Value>, key: &str) -> bool {
    let word = at(object, key).and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    matches!(word.as_str(), "error" | "fail" | "failed" | "failure") || word.ends_with("_error")
}

/// One line, without characters that could move the cursor of a terminal or reorder its text.
fn to_line(text: &str) -> String {
    let moves = |c: char| c.is_whitespace() || c.is_control();
    let hides =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let words = text.split(moves).map(|word| word.replace(hides, "")).filter(|word| !word.is_empty());
    let mut line = words.collect::<Vec<_>>().join(" ");
    if line.len() > MAX_ERROR_TEXT {
        line.truncate(line.floor_char_boundary(MAX_ERROR_TEXT));
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_in_the_words_of_the_server() {
        for (body, want) in [
            (r#"{"error":{"message":"too\n long","code":400}}"#, "too long"),
            (r#"{"error":"\u001b[2Jbusy\u0000"}"#, "[2Jbusy"),
            (r#"{"error":"bu\u202esy"}"#, "busy"),
            (r#"{"error":"busy"}"#, "busy"),
            (r#"{"object":"error","message":"no"}"#, "no"),
            (r#"{"error":null,"message":"the real reason"}"#, "the real reason"),
            (r#"{"error":true,"message":"the real reason"}"#, "the real reason"),
            (r#"{"error":null}"#, r#"{"error":null}"#),
            (r#"{"error":{"code":5}}"#, r#"{"code":5}"#),
            (r#"{"error":"Bad Request","message":"no such model","statusCode":400}"#, "Bad Request: no such model"),
            (r#"{"error":"no such model","message":"no such model: m"}"#, "no such model: m"),
            (r#"{"error":"invalid_request","error_description":"no scope"}"#, "invalid_request: no scope"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"loc":1}]}"#, r#"{"detail":[{"loc":1}]}"#),
            (
                r#"{"detail":[{"type":"missing","loc":["body","model"],"msg":"Field required"},{"loc":["body","messages",0],"msg":"bad"}]}"#,
                "body.model: Field required; body.messages.0: bad",
            ),
            (r#"{"errors":[{"message":"one"},{"message":"two"}]}"#, "one; two"),
            (r#"{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}"#, "Authentication error"),
            (r#"{"message":"Model not found","type":"Not Found","code":404}"#, "Model not found"),
            (
                r#"{"code":"InvalidApiKey","message":"Invalid API-key provided."}"#,
                "Invalid API-key provided. (code InvalidApiKey)",
            ),
            (r#"{"error_code":336003,"error_msg":"the max length"}"#, "the max length (code 336003)"),
            (r#"{"errorMessage":"Task timed out"}"#, "Task timed out"),
            (r#"{"base_resp":{"status_code":1004,"status_msg":"login fail"}}"#, "login fail (code 1004)"),
            (r#"{"Message":"Too many requests"}"#, "Too many requests"),
            (r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"no access"}"#, "no access"),
            (r#"{"msg":"quota","logprob":NaN}"#, "quota"),
            ("[\"one\"]", "one"),
            ("data: {\"error\":{\"message\":\"boom\"}}\n\ndata: [DONE]\n\n", "boom"),
            ("event: error\r\ndata: {\"detail\":\"boom\"}", "boom"),
            ("data: upstream lost\n\n", "upstream lost"),
            ("{\"error\":\"boom\"}\n{\"done\":true}\n", "boom"),
            ("<html>\n<b>Bad Gateway</b>", "Bad Gateway"),
            ("Internal Server Error", "Internal Server Error"),
            ("", ""),
        ] {
            assert_eq!(error_message(body.as_bytes()), want, "{body}");
        }
        assert_eq!(error_message(b"\xffbusy"), "\u{fffd}busy");
    }

    #[test]
    fn a_long_error_is_whole_and_an_endless_one_is_cut() {
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(5000));
        assert_eq!(error_message(long.as_bytes()).chars().count(), 5000);
        assert_eq!(error_message("é".repeat(50_000).as_bytes()).len(), MAX_ERROR_TEXT + '…'.len_utf8());
    }

    #[test]
    fn an_error_in_place_of_content_is_found() {
        for (data, want) in [
            (r#"{"code":400,"message":"bad model"}"#, "bad model (code 400)"),
            (r#"{"code":"400","msg":"bad model"}"#, "bad model (code 400)"),
            (
                r#"{"base_resp":{"status_code":1004,"status_msg":"login fail"},"choices":null}"#,
                "login fail (code 1004)",
            ),
            (r#"{"header":{"code":10013,"message":"blocked"}}"#, "blocked (code 10013)"),
            (r#"{"type":"error","message":"boom"}"#, "boom"),
            (r#"{"type":"error"}"#, r#"{"type":"error"}"#),
            (r#"{"type":"server_error","message":"boom"}"#, "boom"),
            (r#"{"success":false,"message":"boom"}"#, "boom"),
            (r#"{"status":"failed","reason":"boom"}"#, "boom"),
            (r#"{"status":503,"detail":"boom"}"#, "boom (code 503)"),
            (r#"{"error_code":18,"error_msg":"QPS limit"}"#, "QPS limit (code 18)"),
        ] {
            assert_eq!(find_enclosed_error(data.as_bytes()).as_deref(), Some(want), "{data}");
        }
        for data in [
            r#"{"code":0,"message":"ok"}"#,
            r#"{"code":200,"message":"done"}"#,
            r#"{"code":10000,"message":"success"}"#,
            r#"{"base_resp":{"status_code":0,"status_msg":""}}"#,
            r#"{"message":"your place in the queue is 3"}"#,
            r#"{"status":"queued","message":"wait"}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":1}}}"#,
            r#"{"type":"response.created","response":{"status":"in_progress","error":null}}"#,
            r#"{"type":"response.code_interpreter_call_code.done","code":"print(1)"}"#,
            r#"{"id":"x","choices":[],"usage":{"total_tokens":0}}"#,
            "[]",
            "null",
            "oops",
        ] {
            assert_eq!(find_enclosed_error(data.as_bytes()), None, "{data}");
        }
    }

    #[test]
    fn only_what_may_be_an_error_is_parsed_for_one() {
        let named = ["type", "object", "Event", "STATUS"].iter().flat_map(|key| {
            ["Error", "FAIL", "failed", "failure", "x_error"].map(|word| format!(r#"{{"{key}":"{word}"}}"#))
        });
        let refused = ["success", "OK"].map(|key| format!(r#"{{"{key}":false,"title":"boom"}}"#));
        let coded = CODE_KEYS.map(|key| format!(r#"{{"{}":5,"title":"boom"}}"#, key.replace("code", "_Code")));
        let nested = CODE_KEYS.map(|key| format!(r#"{{"base_resp":{{"{key}":5,"msg":"boom"}}}}"#));
        let escaped = r#"{"type":"\u0065rror"}"#.to_owned();
        for data in named.chain(refused).chain(coded).chain(nested).chain([escaped]) {
            assert!(find_enclosed_error(data.as_bytes()).is_some(), "{data}");
        }
        for data in [r#"{"type":"ping"}"#, r#"{"choices":[{"index":0,"text":"","finish_reason":null}]}"#] {
            assert!(!may_enclose_error(data.as_bytes()), "{data}");
        }
    }
}
