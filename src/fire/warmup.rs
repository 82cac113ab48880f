//! Warm-up requests: of the same shape as those measured, but never the same, so that no cache is primed for them.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Load,
    attempt::{Client, Due, attempt},
    input::{Prepared, RequestFuncInput},
};
use crate::{
    cli,
    clock::Clock,
    error::Error,
    http::exchange::Transport,
    record::{Prompt, SampleRequest},
    rng,
};

/// Sends the warm-up requests, as many at a time as the load will have in flight.
pub async fn run<T: Transport>(load: &Load<'_>, transports: &[Arc<T>]) -> Result<(), Error> {
    let args = load.args;
    let clock = Clock::start();
    for transport in transports {
        transport.set_clock(clock);
    }
    let client = Arc::new(Client::new(clock, load.template.protocol, args.limits(load.template.protocol)));
    let slots = args.slots();
    let mut tasks = Vec::new();
    for number in 0..args.num_warmups {
        let sample = scrambled(&load.first, args.seed, number);
        let ready = load.template.ready(sample, 0).map_err(|e| Error::Usage(format!("a warm-up request: {e}")))?;
        // A chat that waits for replies has none before it.
        let RequestFuncInput { prepared: Prepared::Ready(mut requests), mut output, secrets, .. } = ready else {
            continue;
        };
        let (client, mut stop) = (Arc::clone(&client), load.stopper.watch());
        let taken = tokio::select! {
            biased;
            // Nothing new is begun then.
            () = stop.draining() => None,
            taken = slots.take() => taken,
        };
        let Some((mut slot, _)) = taken else { break };
        let place = number as usize % transports.len();
        let (at, exchange) = transports[place].start_request(requests.swap_remove(place));
        tasks.push(load.readers.handle(at).spawn(async move {
            let done = attempt(&client, exchange, None, None, &mut slot, &mut stop).await;
            slot.free(client.clock.now());
            done.finish(client.clock, Due::default(), |_| None, &mut output);
            secrets.scrub(output.error)
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
        let error = load.headers.scrub(error);
        cli::print_warning(
            "vb-fire",
            format_args!("{failed} of {} warm-up requests failed, as: {error}", args.num_warmups),
        );
    }
    Ok(())
}

/// The warm-up request `number`, made from a measured one: the same words or tokens in another order.
///
/// It begins otherwise than the measured one, so that it shares no block with it: a text with its own number.
fn scrambled(model: &SampleRequest, seed: u64, number: u32) -> SampleRequest {
    let mut sample = model.clone();
    sample.request_id = Some(format!("warmup-{number}"));
    sample.timestamp = None;
    sample.session_id = None;
    match &mut sample.prompt {
        Some(Prompt::Text(text)) => *text = scrambled_text(text, seed, number),
        Some(Prompt::Ids(ids)) => scramble_ids(ids, seed, number),
        Some(Prompt::Texts(texts)) => texts.iter_mut().for_each(|t| *t = scrambled_text(t, seed, number)),
        Some(Prompt::IdLists(lists)) => lists.iter_mut().for_each(|ids| scramble_ids(ids, seed, number)),
        None => {}
    }
    for content in sample.messages.iter_mut().flatten().filter_map(|m| m.get_mut("content")) {
        scramble_content(content, seed, number);
    }
    sample
}

/// The content of a message is text, or parts of which some are text.
fn scramble_content(content: &mut Value, seed: u64, number: u32) {
    match content {
        Value::String(text) => *text = scrambled_text(text, seed, number),
        Value::Array(parts) => {
            for text in parts.iter_mut().filter_map(|p| p.get_mut("text")) {
                scramble_content(text, seed, number);
            }
        }
        _ => {}
    }
}

fn scrambled_text(text: &str, seed: u64, number: u32) -> String {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    shuffle(&mut words, seed, number);
    format!("{number} {}", words.join(" "))
}

fn scramble_ids(ids: &mut [u32], seed: u64, number: u32) {
    let Some(measured) = ids.first().copied() else { return };
    shuffle(ids, seed, number);
    if ids[0] == measured {
        match ids.iter().position(|id| *id != measured) {
            Some(other) => ids.swap(0, other),
            // One token over and over: its neighbour in the vocabulary is as good a token.
            None => ids[0] = if measured > 1 { measured - 1 } else { measured + 1 },
        }
    }
}

fn shuffle<T>(items: &mut [T], seed: u64, number: u32) {
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
            let model: SampleRequest = serde_json::from_str(line).unwrap();
            let (a, b) = (scrambled(&model, 0, 0), scrambled(&model, 0, 1));
            let begins = |sample: &SampleRequest| match &sample.prompt {
                Some(Prompt::Ids(ids)) => ids[0],
                _ => 0,
            };
            assert!(begins(&a) == 0 || begins(&a) != begins(&model) && begins(&b) != begins(&model), "{line}");
            let shuffles = !matches!(&model.prompt, Some(Prompt::Ids(ids)) if ids[0] == ids[1]);
            assert!(!shuffles || a != b, "{line}");
            assert!(a.prompt.is_none_or(|p| Some(p) != model.prompt), "{line}");
            assert_eq!((b.expected_output_len, b.timestamp), (model.expected_output_len, None));
        }
    }
}
