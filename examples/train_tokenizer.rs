//! Trains the built-in tokenizer on the sonnets:
//! `cargo run --release --example train_tokenizer > src/tokens/builtin.json`
//!
//! The result is committed; this program shows how it was made.

use std::io::Write;

use tokenizers::{
    AddedToken, TokenizerBuilder,
    decoders::byte_level::ByteLevel as Decoder,
    models::bpe::{BPE, BpeTrainer},
    normalizers::NormalizerWrapper,
    pre_tokenizers::byte_level::ByteLevel,
    processors::PostProcessorWrapper,
};

const SONNETS: &str = include_str!("../src/data/sonnets.txt");

fn main() -> tokenizers::Result<()> {
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, Decoder>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(ByteLevel::new(false, false, true)))
        .with_decoder(Some(Decoder::new(false, false, true)))
        .build()?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(4096)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from("<|endoftext|>", true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, SONNETS.lines())?;
    std::io::stdout().write_all(tokenizer.to_string(false)?.as_bytes())?;
    Ok(())
}
