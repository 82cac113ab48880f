//! `--dataset-name multi-turn`: made-up conversations, whose turns are random words of exact number.

use rand::Rng;

use super::{
    Plan,
    fit::{Draft, Framed},
    length::Range,
    ordered::{FEW, More, Turn, ordered},
    session::{Exchange, Replies, Session, SessionArgs, session},
    warn,
    words::Words,
    writer::{Fitted, Writer},
};
use crate::{error::Error, rng};

/// The lengths of conversations.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The least and the most turns.
    turns: (u64, u64),
    /// Tokens that the user says in the turns behind the first; `None`: as many as there.
    later_input_len: Option<u32>,
    /// Tokens in front that are a conversation's own.
    own_prefix_len: u32,
}

impl Shape {
    /// With the defaults.
    pub fn of(args: &SessionArgs) -> Self {
        let always = args.num_turns.unwrap_or(3);
        let turns = (args.min_turns.unwrap_or(always).into(), args.max_turns.unwrap_or(always).into());
        Shape {
            turns,
            later_input_len: args.per_turn_input_len,
            own_prefix_len: args.conversation_prefix_len.unwrap_or(0),
        }
    }
}

/// Writes `--num-conversations` conversations, or `--num-prompts` turns.
pub fn run(plan: &Plan, writer: &mut Writer) -> Result<(), Error> {
    let maker = Maker::new(plan)?;
    let mut cut = 0;
    // Each has a turn at the least, so no more are begun than there are turns to write.
    let turns = Some(plan.num_prompts).filter(|n| *n > 0);
    let most = plan.sessions.num_conversations.into_iter().chain(turns).min().unwrap_or(u64::MAX);
    ordered(
        FEW,
        |item| (item < most).then(|| maker.conversation(item)),
        |turn| {
            match turn {
                Turn::Wait => writer.flush()?,
                Turn::Item(made) => {
                    let session = made?;
                    cut += u64::from(session.is_cut());
                    plan.write_session(&session, writer)?;
                }
            }
            Ok(if plan.has_enough(writer) { More::No } else { More::Yes })
        },
    )?;
    if cut > 0 {
        warn(format!(
            "{cut} conversations have fewer turns than asked for: the next would exceed --max-model-len {}",
            plan.sessions.max_model_len
        ));
    }
    Ok(())
}

/// Makes conversations, each from its number alone.
struct Maker<'a> {
    plan: &'a Plan,
    framed: Framed<'a>,
    words: Words,
    /// What all conversations begin with.
    prefix: String,
}

impl<'a> Maker<'a> {
    fn new(plan: &'a Plan) -> Result<Self, Error> {
        let framed = plan.framed()?;
        let words = Words::of(&plan.tokenizer, plan.seed)?;
        let mut maker = Maker { plan, framed, words, prefix: String::new() };
        let mut rng = rng::random_stream(plan.seed, "prefix", 0);
        let head = rng.next_u64();
        maker.prefix = maker.text("", plan.prefix_len, Some(head), &mut rng)?.0;
        Ok(maker)
    }

    /// `fixed` and random words behind it, up to `len` tokens, and how many they are. `head` chooses the first word.
    fn text(&self, fixed: &str, len: u32, head: Option<u64>, rng: &mut impl Rng) -> Result<(String, usize), Error> {
        let count = |text: &str| self.framed.tokenizer.count(text);
        let mut draft = Draft::after(fixed);
        let mut missing = (len as usize).saturating_sub(count(fixed)?);
        if missing > 0 && (fixed.is_empty() || head.is_some()) {
            draft.push(self.words.head(head.unwrap_or_else(|| rng.next_u64()), fixed.is_empty()));
            missing -= 1;
        }
        (0..missing).for_each(|_| draft.push(self.words.draw(rng)));
        draft.fit(len as usize, count, || self.words.draw(rng))
    }

    /// Conversation `item`.
    fn conversation(&self, item: u64) -> Result<Session, Error> {
        let Plan { seed, shape, range_ratio, prefix_len, .. } = *self.plan;
        let mut lengths = rng::random_stream(seed, "lengths", item);
        let mut rng = rng::random_stream(seed, "prompt", item);
        let first_len = self.plan.input_len;
        let [first, later] = [first_len, shape.later_input_len.unwrap_or(first_len)];
        let [first, later] = [first, later].map(|len| Range::around(len, range_ratio.input));
        let output = Range::around(self.plan.output_tokens(), range_ratio.output);

        // The first text that is the conversation's own begins with a word that tells it from all others.
        let own_prefix = shape.own_prefix_len > 0;
        let system_len = prefix_len + shape.own_prefix_len;
        let (system, _) = self.text(&self.prefix, system_len, own_prefix.then_some(item), &mut rng)?;
        let turns = rng::sample_between(&mut lengths, shape.turns.0, shape.turns.1);
        let exchanges = (0..turns).map(|turn| {
            let len = if turn == 0 { first } else { later }.draw(&mut lengths);
            let reply_len = output.draw(&mut lengths);
            let head = (turn == 0 && !own_prefix).then_some(item);
            let (user, got) = self.text("", len, head, &mut rng)?;
            let reply = match self.plan.sessions.replies {
                Replies::Server => String::new(),
                Replies::Dataset => self.text("", reply_len, None, &mut rng)?.0,
            };
            Ok(Exchange { user, reply, reply_len, asked: Fitted { want: len as usize, got } })
        });
        let cached = if item == 0 { 0 } else { prefix_len };
        let system = Some(system.as_str()).filter(|text| !text.is_empty());
        let made = session(self.plan, self.framed, system, exchanges, cached, self.plan.ignore_eos())?;
        if made.is_empty() {
            return Err(Error::Usage(format!(
                "a first turn of {} tokens and its reply are more than --max-model-len {}: make that larger, or the turn \
                 smaller",
                system_len + first_len,
                self.plan.sessions.max_model_len
            )));
        }
        Ok(made)
    }
}
