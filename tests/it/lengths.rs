//! `vb-gen` with lengths that are not one number, through its binary.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::tool::{Done, folder, run};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn generate(args: &[&str]) -> Done {
    let done = run("vb-gen", args, "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    done
}

fn pairs(done: &Done) -> Vec<(u64, u64)> {
    let number = |r: &Value, key: &str| r[key].as_u64().unwrap();
    lines(&done.stdout).iter().map(|r| (number(r, "prompt_len"), number(r, "expected_output_len"))).collect()
}

#[test]
fn lengths_follow_a_distribution_and_prompts_are_exact() {
    let args = ["--input-dist", "lognormal:60,40,max=200", "--output-dist", "zipf:1,50", "--prefix-len", "10"];
    let done = generate(&[&args[..], &["--num-prompts", "400"]].concat());
    let got = pairs(&done);
    assert!(got.iter().all(|(input, output)| (11..=210).contains(input) && (1..=50).contains(output)));
    let mean = got.iter().map(|(input, _)| input).sum::<u64>() as f64 / 400.0;
    assert!((60.0..76.0).contains(&mean), "{mean}");
    // Another distribution of answers leaves the prompts as they are.
    let other = generate(&["--input-dist", "lognormal:60,40,max=200", "--prefix-len", "10", "--num-prompts", "400"]);
    let prompts = |done: &Done| lines(&done.stdout).iter().map(|r| r["prompt"].clone()).collect::<Vec<Value>>();
    assert_eq!(prompts(&done), prompts(&other));
}

#[test]
fn pairs_of_a_file_are_drawn_or_taken_in_order() {
    let path = folder("lengths").join("pairs.csv");
    std::fs::write(&path, "output,input\n5,10\n6,20\n7,30\n").unwrap();
    let args = ["--lengths", path.to_str().unwrap(), "--num-prompts", "5"];
    let in_order = generate(&[&args[..], &["--disable-shuffle"]].concat());
    assert_eq!(pairs(&in_order), [(10, 5), (20, 6), (30, 7), (10, 5), (20, 6)]);
    let drawn = generate(&["--lengths", path.to_str().unwrap(), "--num-prompts", "100"]);
    assert_eq!(pairs(&drawn).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([(10, 5), (20, 6), (30, 7)]));
    std::fs::write(&path, "input,output\n10,5\n0,1\n").unwrap();
    let bad = run("vb-gen", &args, "");
    assert!(bad.code == 3 && bad.stderr.contains("pairs.csv:3: `0` in the column `input`"), "{bad:?}");
}

#[test]
fn of_several_scenarios_each_request_draws_one_and_is_tagged() {
    let done = generate(&["--scenario", "D(100,10)", "U(20,30)/(1,2)", "--num-prompts", "100"]);
    let mut names = BTreeSet::new();
    for (request, (input, output)) in lines(&done.stdout).iter().zip(pairs(&done)) {
        let name = request["tags"]["scenario"].as_str().unwrap();
        match name {
            "D(100,10)" => assert_eq!((input, output), (100, 10)),
            _ => assert!((20..=30).contains(&input) && (1..=2).contains(&output)),
        }
        names.insert(name.to_owned());
    }
    assert_eq!(names.len(), 2);
}

#[test]
fn a_length_that_is_said_twice_is_refused() {
    for (args, want) in [
        (&["--input-dist", "5", "--input-len", "5"][..], "prompt lengths are said twice"),
        (&["--output-dist", "5", "--range-ratio", "0.5"], "answer lengths are said twice"),
        (&["--input-dist", "5", "--scenario", "D(1,1)"], "give one of these"),
        (&["--dataset-name", "sonnet", "--input-dist", "5"], "work with --dataset-name random only"),
        (&["--input-dist", "gauss"], "is not a distribution of lengths"),
    ] {
        let done = run("vb-gen", args, "");
        assert!(done.code == 2 && done.stderr.contains(want), "{args:?}: {}", done.stderr);
    }
}
