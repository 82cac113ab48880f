//! How likely each token of an answer was, and which others there might have been, as vLLM 0.32 tells it.
//!
//! The numbers are made up: they depend on the token only, and its own is the greatest.

use serde_json::{Map, Value, json};

use super::{blocks::chain, vocabulary::Vocabulary};

/// Of tokens of a chat, with `top` likely ones each.
pub fn of_chat(vocabulary: &Vocabulary, ids: &[u32], top: usize) -> Value {
    let one = |id: u32, logprob: f64| {
        let text = vocabulary.text(id);
        json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()})
    };
    let token = |id: &u32| {
        let likely: Vec<Value> = likely(vocabulary, *id, top).map(|(id, logprob)| one(id, logprob)).collect();
        let mut token = one(*id, own(*id));
        token["top_logprobs"] = likely.into();
        token
    };
    json!({"content": ids.iter().map(token).collect::<Vec<_>>()})
}

/// Of tokens of a completion, with `top` likely ones each; `offset`: characters of the answer before them.
pub fn of_completion(vocabulary: &Vocabulary, ids: &[u32], top: usize, offset: usize) -> Value {
    let mut at = offset;
    let mut offsets = Vec::with_capacity(ids.len());
    for id in ids {
        offsets.push(at);
        at += vocabulary.text(*id).chars().count();
    }
    let token = |id: &u32| -> Map<String, Value> {
        // vLLM names the token that was taken even where no others were asked for.
        likely(vocabulary, *id, top.max(1)).map(|(id, p)| (vocabulary.text(id).to_owned(), p.into())).collect()
    };
    json!({"text_offset": offsets, "token_logprobs": ids.iter().map(|id| own(*id)).collect::<Vec<_>>(),
        "tokens": ids.iter().map(|id| vocabulary.text(*id)).collect::<Vec<_>>(),
        "top_logprobs": ids.iter().map(token).collect::<Vec<_>>()})
}

/// The logarithm of a probability from 0.54 to 0.99.
fn own(id: u32) -> f64 {
    -0.01 - (chain(0, &[id]) % 600) as f64 / 1000.0
}

/// The token itself, and others that are ever less likely.
fn likely(vocabulary: &Vocabulary, id: u32, top: usize) -> impl Iterator<Item = (u32, f64)> {
    let others = (1..).map(move |place: u32| (vocabulary.word(id.wrapping_add(place)), -5.0 - f64::from(place)));
    std::iter::once((id, own(id))).chain(others.filter(move |(other, _)| *other != id)).take(top)
}

#[cfg(test)]
mod tests {
    use super::{super::vocabulary::Length, *};

    #[test]
    fn every_token_has_its_own_and_less_likely_ones() {
        let vocabulary = Vocabulary::builtin().unwrap();
        let ids = vocabulary.answer(1, &[1, 2], 0, Length { max_tokens: 5, min_tokens: 0, ignore_eos: true });
        let chat = of_chat(&vocabulary, &ids, 3);
        assert_eq!(chat["content"].as_array().unwrap().len(), 5);
        for (token, id) in chat["content"].as_array().unwrap().iter().zip(&ids) {
            assert_eq!(token["token"], vocabulary.text(*id));
            let top = token["top_logprobs"].as_array().unwrap();
            assert_eq!((top.len(), &top[0]["logprob"]), (3, &token["logprob"]));
            let top: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
            assert!(top.windows(2).all(|pair| pair[0] > pair[1]) && top[0] < 0.0, "{top:?}");
        }
        assert!(of_chat(&vocabulary, &ids, 0)["content"][0]["top_logprobs"].as_array().unwrap().is_empty());

        let text = of_completion(&vocabulary, &ids, 2, 10);
        assert_eq!(text["tokens"][0], vocabulary.text(ids[0]));
        let second = 10 + vocabulary.text(ids[0]).chars().count();
        assert_eq!((&text["text_offset"][0], &text["text_offset"][1]), (&10.into(), &second.into()));
        assert_eq!(text["top_logprobs"][4].as_object().unwrap().len(), 2);
    }
}
