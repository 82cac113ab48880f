//! A response that is one document, as without streaming.

use super::{ReceivedResponse, quote, read_repaired};
use crate::{
    backend::{ChoiceDelta, Delta, ReadError},
    http::{
        body::BodyFormat,
        error_text::{find_enclosed_error, find_error_words},
    },
    json,
    record::ErrorKind,
};

impl ReceivedResponse {
    /// Takes the document that was the whole body.
    pub(super) fn take_document(&mut self, body: &[u8]) {
        let expected = self.body_format();
        if expected != BodyFormat::Json {
            self.cut = json::is_cut(body);
            if !self.cut {
                self.fail_other_format(BodyFormat::Json.media_type().1, body);
            }
            return;
        }
        let (mut repaired, api) = (Vec::new(), self.protocol.api);
        let (body, read) = read_repaired(body, &mut repaired, |body| api.read_response(body));
        match read {
            Ok(delta) => self.take_full_delta(body, &delta),
            Err(ReadError::Syntax(why)) => match BodyFormat::detect(body).filter(|found| *found != expected) {
                Some(found) => self.fail_other_format(found.media_type().1, body),
                None if self.unframed && json::is_cut(body) => self.cut = true,
                None => self.fail_full_body(&why, body),
            },
            Err(ReadError::Shape(why)) => match find_enclosed_error(body).or_else(|| find_error_words(body)) {
                Some(error) => self.set_failure(ErrorKind::StreamError, error),
                None => self.fail_full_body(&why, body),
            },
        }
    }

    /// Takes a non-streaming response: the time of its end is known, the times of its tokens are not.
    fn take_full_delta(&mut self, body: &[u8], delta: &Delta<'_>) {
        let has_token = delta.choices.iter().any(ChoiceDelta::has_token);
        let generates = self.protocol.api.generates_tokens();
        let empty = generates && !has_token;
        let error = delta.error.clone().or_else(|| if empty { find_enclosed_error(body) } else { None });
        if let Some(error) = error {
            return self.set_failure(ErrorKind::StreamError, error);
        }
        let arrival = self.arrival;
        self.last = Some(arrival.time);
        self.count_stamp(arrival);
        self.tokens.add_usage(delta.usage);
        self.metrics = delta.metrics;
        self.done = delta.done;
        self.take_choices(delta);
        self.untimed_tokens = has_token || self.tokens.has_usage();
        if self.untimed_tokens {
            self.tokens.add_untimed_tokens(delta.choices.iter().filter(|choice| choice.has_token()).count());
        }
    }

    fn fail_full_body(&mut self, why: &str, body: &[u8]) {
        let message = format!("the response does not belong to this API ({why}): {}", quote(body));
        self.set_failure(ErrorKind::Protocol, message);
    }

    /// The whole body has another format than was asked for.
    fn fail_other_format(&mut self, found: &str, body: &[u8]) {
        let expected = self.body_format().media_type().1;
        self.set_failure(ErrorKind::Protocol, format!("the server answered {found}, not {expected}: {}", quote(body)));
    }
}
