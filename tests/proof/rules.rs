//! Checks in simulated comparisons that the rules of `--fail-if` are right as often as they claim.

use vb::diff::{CheckResult, CompareOptions, Report, parse_rule};

use crate::{
    comparisons::{SERVERS, options, side},
    count_trials,
};

fn rule(text: &str) -> CompareOptions {
    CompareOptions { rules: vec![parse_rule(text).unwrap()], ..options() }
}

/// A change that is the limit fails its rule by chance, and passes it by chance.
#[test]
fn a_rule_is_wrong_in_each_direction_in_at_most_5_percent_of_comparisons() {
    let trials = count_trials(60);
    let (mut all, mut sum) = (Vec::new(), 0);
    for (server, statistic) in [(0, "p50"), (1, "mean"), (1, "p90"), (3, "p50")] {
        let (server, options) = (&SERVERS[server], rule(&format!("ttft.{statistic} > +5%")));
        let (mut failed, mut passed) = (0, 0);
        for trial in 0..trials {
            let (a, b) = (side(server, 400, ("rule a", trial), 1.0), side(server, 400, ("rule b", trial), 1.05));
            let result = Report::compare_sides(&a, &b, &options).checks[0].result;
            failed += u64::from(result == CheckResult::Failed);
            passed += u64::from(result == CheckResult::Passed);
        }
        all.push((server.name, statistic, failed, passed));
        sum += failed + passed;
    }
    println!("(server, statistic, failed, passed) of {trials}: {all:?}");
    let most = |n: f64| 0.05 * n + 3.0 * (0.05 * 0.95 * n).sqrt() + 0.01 * n;
    assert!(sum as f64 <= most(8.0 * trials as f64), "{sum}: {all:?}");
    let each = |n: u64| n as f64 <= most(trials as f64);
    assert!(all.iter().all(|(.., failed, passed)| each(*failed) && each(*passed)), "of {trials}: {all:?}");
}

#[test]
fn a_rule_is_decided_by_as_many_requests_as_it_says() {
    let trials = count_trials(20);
    let options = rule("ttft.p50 > +5%");
    for slower in [1.0, 1.1] {
        let (mut decided, mut right, mut needed, mut done) = (0, 0, 0, 0);
        for pilot in 0.. {
            let compare = |name: &str, n: usize| {
                let (a, b) = (format!("{name} a"), format!("{name} b"));
                let (a, b) = (side(&SERVERS[1], n, (&a, pilot), 1.0), side(&SERVERS[1], n, (&b, pilot), slower));
                Report::compare_sides(&a, &b, &options).checks.remove(0)
            };
            // A pilot that happens to lie near the limit asks for any number.
            let Some(more) = compare("first", 400).needs_more.filter(|more| *more < 8000) else { continue };
            let n = 400 + usize::try_from(more).unwrap();
            let result = compare("second", n).result;
            decided += u64::from(result != CheckResult::Undecided);
            right += u64::from(result == if slower > 1.05 { CheckResult::Failed } else { CheckResult::Passed });
            needed += n as u64;
            done += 1;
            if done == trials {
                break;
            }
        }
        println!("{slower}: {right} right, {decided} decided of {trials}, with {} requests a side", needed / trials);
        // The planned 85 %, less what pilots lose that overestimate the change.
        let least = 0.75 - 3.0 * (0.75 * 0.25 / trials as f64).sqrt();
        assert!(decided as f64 >= least * trials as f64, "{slower}: {decided} of {trials}");
        assert!((decided - right) * 20 <= trials, "{slower}: {right} of {decided}");
    }
}
