//! Warm-up requests: of the same shape as the measured ones but never the same, so that they do not fill the prefix cache for them.

use std::sync::Arc;

use serde_json::Value;

use super::{
    LoadRun,
    attempt::{ClientState, run_attempt},
    prepare::{PreparedRequest, RequestFuncInput},
};
use crate::{
    cli,
    clock::Clock,
    error::Error,
    http::exchange::Transport,
    load::SendTimes,
    record::{Prompt, SampleRequest},
    rng,
};

/// Sends the warm-up requests, with the concurrency of the load.
pub async fn run_warmup<T: Transport>(load: &LoadRun<'_>, transports: &[Arc<T>]) -> Result<(), Error> {
    let args = load.args;
    let clock = Clock::start();
    for transport in transports {
        transport.set_clock(clock);
    }
    let protocol = load.template.protocol;
    let client = Arc::new(ClientState::new(clock, protocol, args.time_limits(protocol), args.threads.into()));
    let slots = args.request_slots();
    let mut tasks = Vec::new();
    for number in 0..args.num_warmups {
        let sample = shuffle_request(&load.first, args.seed, number);
        let prepared = load.template.prepare(sample, 0).map_err(|e| Error::Usage(format!("a warm-up request: {e}")))?;
        // A chat with placeholders has no earlier turns here.
        let RequestFuncInput { prepared: PreparedRequest::Ready(bytes), mut output, secrets, .. } = prepared else {
            continue;
        };
        let (client, mut stop) = (Arc::clone(&client), load.stopper.stop_signal());
        let taken = tokio::select! {
            biased;
            // Nothing new is sent then.
            () = stop.wait_for_drain() => None,
            taken = slots.take() => Some(taken),
        };
        let Some((mut slot, _)) = taken else { break };
        let server = number as usize % transports.len();
        let (thread, mut exchange) =
            transports[server].start_request(load.template.address_request(server, bytes), None);
        tasks.push(load.readers.handle(thread).spawn(async move {
            let attempt = run_attempt(&client, thread, &mut exchange, None, None, &mut slot, &mut stop).await;
            slot.free(client.clock.now());
            attempt.finish(client.clock, SendTimes::default(), |_| None, &mut output);
            secrets.unwrap_or_default().hide(&output.error).into_owned()
        }));
    }
    let (mut failed, mut error) = (0, String::new());
    for task in tasks {
        if let Ok(text) = task.await
            && !text.is_empty()
        {
            failed += 1;
            error = text;
        }
    }
    if failed > 0 {
        let error = load.headers.scrub_text(&error);
        cli::print_warning(
            "vb-fire",
            format_args!("{failed} of {} warm-up requests failed; the last error: {error}", args.num_warmups),
        );
    }
    Ok(())
}

/// Makes the warm-up request `number` from a measured one: the same words or tokens in another order.
///
/// It begins differently, so that it shares no block of the prefix cache with the measured one: a text begins with its number.
fn shuffle_request(original: &SampleRequest, seed: u64, number: u32) -> SampleRequest {
    let mut sample = original.clone();
    sample.request_id = Some(format!("warmup-{number}"));
    sample.timestamp = None;
    sample.session_id = None;
    match &mut sample.prompt {
        Some(Prompt::Text(text)) => *text = shuffle_text(text, seed, number),
        Some(Prompt::Ids(ids)) => shuffle_ids(ids, seed, number),
        Some(Prompt::Texts(texts)) => texts.iter_mut().for_each(|t| *t = shuffle_text(t, seed, number)),
        Some(Prompt::IdLists(lists)) => lists.iter_mut().for_each(|ids| shuffle_ids(ids, seed, number)),
        None => {}
    }
    for content in sample.messages.iter_mut().flatten().filter_map(|m| m.get_mut("content")) {
        shuffle_content(content, seed, number);
    }
    sample
}

/// Shuffles the content of a message: a text, or the text parts of a list.
fn shuffle_content(content: &mut Value, seed: u64, number: u32) {
    match content {
        Value::String(text) => *text = shuffle_text(text, seed, number),
        Value::Array(parts) => {
            for text in parts.iter_mut().filter_map(|p| p.get_mut("text")) {
                shuffle_content(text, seed, number);
            }
        }
        _ => {}
    }
}

fn shuffle_text(text: &str, seed: u64, number: u32) -> String {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    shuffle_items(&mut words, seed, number);
    format!("{number} {}", words.join(" "))
}

fn shuffle_ids(ids: &mut [u32], seed: u64, number: u32) {
    let Some(measured) = ids.first().copied() else { return };
    shuffle_items(ids, seed, number);
    if ids[0] == measured {
        match ids.iter().position(|id| *id != measured) {
            Some(other) => ids.swap(0, other),
            // All tokens are the same: an adjacent one in the vocabulary is as good.
            None => ids[0] = if measured > 1 { measured - 1 } else { measured + 1 },
        }
    }
}

fn shuffle_items<T>(items: &mut [T], seed: u64, number: u32) {
    rng::shuffle_list(items, &mut rng::random_stream(seed, "warmup", u64::from(number)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_is_like_a_request_but_never_the_same() {
        for line in [
            r#"{"prompt":"one two three four five six","expected_output_len":3,"timestamp":4}"#,
            r#"{"prompt":[1,2,3,4,5,6,7,8]}"#,
            r#"{"prompt":[7,7,7]}"#,
            r#"{"prompt":[7,7,8]}"#,
            r#"{"messages":[{"role":"user","content":"one two three"},{"role":"user","content":[{"type":"text","text":"a b c"}]}]}"#,
        ] {
            let original: SampleRequest = serde_json::from_str(line).unwrap();
            let (a, b) = (shuffle_request(&original, 0, 0), shuffle_request(&original, 0, 1));
            let begins = |sample: &SampleRequest| match &sample.prompt {
                Some(Prompt::Ids(ids)) => ids[0],
                _ => 0,
            };
            assert!(begins(&a) == 0 || begins(&a) != begins(&original) && begins(&b) != begins(&original), "{line}");
            let shuffles = !matches!(&original.prompt, Some(Prompt::Ids(ids)) if ids[0] == ids[1]);
            assert!(!shuffles || a != b, "{line}");
            assert!(a.prompt.is_none_or(|p| Some(p) != original.prompt), "{line}");
            assert_eq!((b.expected_output_len, b.timestamp), (original.expected_output_len, None));
        }
    }
}
