//! Log probabilities of output tokens and of their alternatives, in the formats of vLLM 0.32.
//!
//! The numbers are made up: they depend only on the token, and the token itself always has the greatest.

use serde_json::{Map, Value, json};

use super::{blocks::chain_hash, vocabulary::Vocabulary};

/// Log probabilities of a chat's tokens, with `top` likely tokens for each.
pub fn chat_logprobs(vocabulary: &Vocabulary, ids: &[u32], top: usize) -> Value {
    let one = |id: u32, logprob: f64| {
        let text = vocabulary.token_text(id);
        json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()})
    };
    let token = |id: &u32| {
        let likely: Vec<Value> = likely_tokens(vocabulary, *id, top).map(|(id, logprob)| one(id, logprob)).collect();
        let mut token = one(*id, token_logprob(*id));
        token["top_logprobs"] = likely.into();
        token
    };
    json!({"content": ids.iter().map(token).collect::<Vec<_>>()})
}

/// Log probabilities of a completion's tokens, with `top` likely tokens for each; `offset`: characters of the output before them.
pub fn completion_logprobs(vocabulary: &Vocabulary, ids: &[u32], top: usize, offset: usize) -> Value {
    let mut next_offset = offset;
    let mut offsets = Vec::with_capacity(ids.len());
    for id in ids {
        offsets.push(next_offset);
        next_offset += vocabulary.token_text(*id).chars().count();
    }
    let token = |id: &u32| -> Map<String, Value> {
        // vLLM lists the generated token even if the client asked for no alternatives.
        likely_tokens(vocabulary, *id, top.max(1))
            .map(|(id, p)| (vocabulary.token_text(id).to_owned(), p.into()))
            .collect()
    };
    json!({"text_offset": offsets, "token_logprobs": ids.iter().map(|id| token_logprob(*id)).collect::<Vec<_>>(),
        "tokens": ids.iter().map(|id| vocabulary.token_text(*id)).collect::<Vec<_>>(),
        "top_logprobs": ids.iter().map(token).collect::<Vec<_>>()})
}

/// The log probability of a generated token: of a probability from 0.54 to 0.99.
fn token_logprob(id: u32) -> f64 {
    -0.01 - (chain_hash(0, &[id]) % 600) as f64 / 1000.0
}

/// The token itself and alternatives, in order of falling probability.
fn likely_tokens(vocabulary: &Vocabulary, id: u32, top: usize) -> impl Iterator<Item = (u32, f64)> {
    let others = (1..).map(move |rank: u32| (vocabulary.nth_word(id.wrapping_add(rank)), -5.0 - f64::from(rank)));
    std::iter::once((id, token_logprob(id))).chain(others.filter(move |(other, _)| *other != id)).take(top)
}

#[cfg(test)]
mod tests {
    use super::{super::vocabulary::LengthLimits, *};

    #[test]
    fn every_token_has_its_own_and_less_likely_ones() {
        let vocabulary = Vocabulary::builtin().unwrap();
        let ids =
            vocabulary.generate_output(1, &[1, 2], 0, LengthLimits { max_tokens: 5, min_tokens: 0, ignore_eos: true });
        let chat = chat_logprobs(&vocabulary, &ids, 3);
        assert_eq!(chat["content"].as_array().unwrap().len(), 5);
        for (token, id) in chat["content"].as_array().unwrap().iter().zip(&ids) {
            assert_eq!(token["token"], vocabulary.token_text(*id));
            let top = token["top_logprobs"].as_array().unwrap();
            assert_eq!((top.len(), &top[0]["logprob"]), (3, &token["logprob"]));
            let top: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
            assert!(top.windows(2).all(|pair| pair[0] > pair[1]) && top[0] < 0.0, "{top:?}");
        }
        assert!(chat_logprobs(&vocabulary, &ids, 0)["content"][0]["top_logprobs"].as_array().unwrap().is_empty());

        let text = completion_logprobs(&vocabulary, &ids, 2, 10);
        assert_eq!(text["tokens"][0], vocabulary.token_text(ids[0]));
        let second = 10 + vocabulary.token_text(ids[0]).chars().count();
        assert_eq!((&text["text_offset"][0], &text["text_offset"][1]), (&10.into(), &second.into()));
        assert_eq!(text["top_logprobs"][4].as_object().unwrap().len(), 2);
    }
}
