//! `--dataset-name sonnet`: lines of Shakespeare's sonnets up to an exact length, after lines that all prompts share.

use super::{Apis, Dataset, OutputTokens, OwnFlags, Reads};
use crate::{
    cli,
    data::SONNETS,
    error::Error,
    generate::{
        common::Common,
        exact::{self, PromptCounter, TextDraft, WordList, wrap_index},
        print_warning,
        writer::{PromptLen, RequestWriter},
    },
    record::{Prompt, SampleRequest},
    rng,
    text::{BAD_UTF8, find_bad_utf8},
};

pub const DATASET: Dataset = Dataset {
    name: "sonnet",
    aliases: &[],
    about: "Lines of Shakespeare's sonnets, built in, or of your own text",
    reads: Reads::OptionalFile,
    lengths: "its prompts are whole lines, up to --input-len tokens",
    output: OutputTokens::Default(150),
    apis: Apis::Text,
    takes: &["input_len", "prefix_len"],
    flags: &[],
    check: None,
    run,
};

/// Defaults of `--input-len` and `--prefix-len`, as in vLLM.
const INPUT_LEN: u32 = 550;
const PREFIX_LEN: u32 = 200;

/// The instruction that every prompt begins with.
const INSTRUCTION: &str = "Write on in the manner of these lines, and use as many of them as you can:";

/// Makes prompts of verse.
struct SonnetPrompts<'a> {
    counter: PromptCounter<'a>,
    words: WordList,
    seed: u64,
    /// The instruction and the lines that all prompts share, with the last line break.
    shared: String,
    /// Its tokens, including all that the server adds.
    shared_len: usize,
    /// Its tokens, including those that the server adds before it.
    shared_front: usize,
    lines: Vec<String>,
    /// Indices of the lines, shuffled with the seed: each prompt begins with another one.
    heads: Vec<usize>,
    tokens_per_line: usize,
}

impl<'a> SonnetPrompts<'a> {
    fn new(counter: PromptCounter<'a>, seed: u64, lines: Vec<String>, prefix_len: usize) -> Result<Self, Error> {
        let mut heads: Vec<usize> = (0..lines.len()).collect();
        rng::shuffle_list(&mut heads, &mut rng::random_stream(seed, "heads", 0));
        // Rounded down: too many lines can be cut, but too few would be filled up with words that are not verse.
        let sample = lines.iter().take(100).map(|line| counter.tokenizer.count(line)).sum::<Result<usize, Error>>()?;
        let tokens_per_line = (sample / lines.len().clamp(1, 100)).max(1);
        let words = WordList::from_tokenizer(counter.tokenizer, seed)?;
        let shared = shared_beginning(counter, &words, &lines, prefix_len, tokens_per_line)?;
        let shared_tokens = counter.tokenizer.count(&shared)?;
        let (shared_len, shared_front) =
            (shared_tokens + counter.added_tokens()?, shared_tokens + counter.tokens_in_front()?);
        Ok(SonnetPrompts { counter, words, seed, shared, shared_len, shared_front, lines, heads, tokens_per_line })
    }

    /// Makes prompt `item` of `want` tokens, including those that the server adds.
    fn make_prompt(&self, item: u64, want: usize) -> Result<(String, PromptLen), Error> {
        let mut rng = rng::random_stream(self.seed, "verse", item);
        let mut draft = TextDraft::starting_with(&self.shared);
        push_words_of_line(&mut draft, &self.lines[self.heads[wrap_index(item, self.heads.len())]]);
        for _ in 0..want.saturating_sub(self.shared_len) / self.tokens_per_line {
            draft.push_line(&self.lines[rng::sample_index(&mut rng, self.lines.len())]);
        }
        let (text, got) = draft.fit_tokens(want, |text| self.counter.count(text), || self.words.draw_word(&mut rng))?;
        Ok((text, PromptLen { want, got }))
    }
}

/// The instruction, and the first lines up to `prefix_len` tokens including the line break; only the instruction if
/// that is longer already.
fn shared_beginning(
    counter: PromptCounter,
    words: &WordList,
    lines: &[String],
    prefix_len: usize,
    tokens_per_line: usize,
) -> Result<String, Error> {
    let count = |text: &str| counter.tokenizer.count(&format!("{text}\n"));
    if prefix_len <= count(INSTRUCTION)? {
        return Ok(format!("{INSTRUCTION}\n"));
    }
    let mut draft = TextDraft::starting_with(INSTRUCTION);
    lines.iter().cycle().take(prefix_len / tokens_per_line + 1).for_each(|line| draft.push_line(line));
    // The same for every seed, like the lines.
    let mut rng = rng::random_stream(0, "prefix", 0);
    Ok(draft.fit_tokens(prefix_len, count, || words.draw_word(&mut rng))?.0 + "\n")
}

/// Appends the line of verse after a line break; each of its words may be removed.
fn push_words_of_line(draft: &mut TextDraft, line: &str) {
    line.split_inclusive(' ').for_each(|word| draft.push(word));
}

/// Lines of the dataset's file, or of the sonnets.
fn read_lines(common: &Common) -> Result<Vec<String>, Error> {
    let verse = |text: &str| text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    let Some(path) = &common.dataset_path else { return Ok(verse(SONNETS)) };
    let mut bytes = Vec::new();
    cli::open_input(path)?.0.read_to_end(&mut bytes).map_err(|e| Error::read(path, e))?;
    if let Some(place) = find_bad_utf8(&bytes) {
        return Err(Error::Input(format!("{}: byte {place}: {BAD_UTF8}", path.display())));
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = verse(text.trim_start_matches('\u{feff}'));
    if lines.is_empty() {
        return Err(Error::Input(format!("{} has no lines", path.display())));
    }
    Ok(lines)
}

/// Writes `--num-prompts` requests of verse.
fn run(common: &Common, _: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let (input_len, prefix_len) = (common.input_len.unwrap_or(INPUT_LEN), common.prefix_len.unwrap_or(PREFIX_LEN));
    let counter = common.prompt_counter()?;
    let sonnets = SonnetPrompts::new(counter, common.seed, read_lines(common)?, prefix_len as usize)?;
    let task = sonnets.shared_len - counter.added_tokens()?;
    if task > prefix_len as usize {
        print_warning(format!(
            "--prefix-len {prefix_len}: the instruction that all prompts begin with has {task} tokens, and all of them are shared"
        ));
    }
    exact::input_len_without(input_len, sonnets.shared_len, "the instruction and the shared lines")?;
    let want = input_len as usize;
    writer.write_numbered(common.num_prompts, |item| {
        let (text, fitted) = sonnets.make_prompt(item, want)?;
        let request = SampleRequest {
            prompt: Some(Prompt::Text(text)),
            expected_output_len: Some(common.output_tokens()),
            // As with random, from the second request on.
            expected_cached_len: if item == 0 { Some(0) } else { u32::try_from(sonnets.shared_front).ok() },
            ..SampleRequest::default()
        };
        Ok((request, fitted))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tokenizer;

    #[test]
    fn prompts_are_verse_of_exact_length_after_a_shared_prefix_of_exact_length() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let counter = PromptCounter::new(&tokenizer, false).unwrap();
        let lines = SONNETS.lines().map(str::to_owned).collect();
        let sonnets = SonnetPrompts::new(counter, 5, lines, 60).unwrap();
        assert_eq!(tokenizer.count(&sonnets.shared).unwrap(), 60);
        for want in [70, 200, 551] {
            let (text, fitted) = sonnets.make_prompt(want, usize::try_from(want).unwrap()).unwrap();
            assert_eq!((fitted.want, fitted.got), (tokenizer.count(&text).unwrap(), fitted.want));
            assert!(text.starts_with(&sonnets.shared));
            // The prompt's own tokens follow directly, so no more is shared than reported.
            let ids = |text: &str| tokenizer.encode(text, false).unwrap();
            assert_eq!(ids(&text)[..60], ids(&sonnets.shared));
            assert!(sonnets.shared.ends_with('\n') && !text[sonnets.shared.len()..].starts_with('\n'));
        }
    }
}
