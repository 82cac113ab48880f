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
    assert!(bad.code == 3 && bad.stderr.contains("pairs.csv:3: invalid value `0` in column `input`"), "{bad:?}");
    std::fs::write(&path, "input,output\n10,5\n4000000000,1\n").unwrap();
    let long = run("vb-gen", &args, "");
    assert!(long.code == 3 && long.stderr.contains("pairs.csv:3: invalid value `4000000000`"), "{long:?}");
    assert!(long.stderr.contains("from 1 to 16777216 tokens"), "{long:?}");
    std::fs::write(&path, "input,output\n10,0\n").unwrap();
    let none = run("vb-gen", &args, "");
    assert!(none.code == 3 && none.stderr.contains(":2: invalid value `0` in column `output`"), "{none:?}");
    let embedded = generate(&[&args[..], &["--backend", "openai-embeddings"]].concat());
    assert_eq!(lines(&embedded.stdout)[0]["prompt_len"], 10);
    let folder = run("vb-gen", &["--lengths", path.parent().unwrap().to_str().unwrap()], "");
    assert!(folder.code == 4 && folder.stderr.contains("cannot read "), "{folder:?}");
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
fn images_and_batches_have_lengths_that_are_drawn_too() {
    let buckets =
        ["--random-mm-bucket-config", "{\"8x8\":1}", "--backend", "openai-chat", "--dataset-name", "random-mm"];
    let dist = ["--input-dist", "uniform:5,9", "--num-prompts", "40"];
    let images = run("vb-gen", &[&dist[..], &buckets, &["--output-dist", "uniform:2,3"]].concat(), "");
    let got = pairs(&images);
    let all = |low, high, got: Vec<u64>| got.into_iter().collect::<BTreeSet<u64>>() == (low..=high).collect();
    assert!(
        all(5, 9, got.iter().map(|(input, _)| *input).collect()) && all(2, 3, got.iter().map(|(_, o)| *o).collect())
    );
    let two = ["--random-batch-size", "2", "--backend", "openai-embeddings"];
    let lens = lines(&generate(&[&dist[..], &two].concat()).stdout);
    let lens = lens.iter().map(|r| r["prompt_len"].as_u64().unwrap()).collect::<BTreeSet<u64>>();
    assert!(lens.len() > 4 && lens.iter().all(|len| (10..=18).contains(len)), "{lens:?}");
    let scenario = run("vb-gen", &[&["--scenario", "D(5,5)"][..], &two].concat(), "");
    assert!(scenario.code == 2 && scenario.stderr.contains("--input-dist"), "{scenario:?}");
}

#[test]
fn a_range_includes_its_limits() {
    let done = generate(&["--input-len", "1", "--output-len", "100", "--range-ratio", "0.1", "--num-prompts", "2000"]);
    let drawn = pairs(&done).into_iter().map(|(_, output)| output).collect::<BTreeSet<u64>>();
    assert_eq!(drawn, (90..=110).collect());
}

#[test]
fn a_length_that_is_given_twice_is_refused() {
    for (args, want) in [
        (&["--input-dist", "5", "--input-len", "5"][..], "prompt lengths are given twice"),
        (&["--output-dist", "5", "--range-ratio", "0.5"], "output lengths are given twice"),
        (&["--input-dist", "5", "--scenario", "D(1,1)"], "use one of these"),
        (&["--dataset-name", "sonnet", "--input-dist", "5"], "use it with --dataset-name random or random-mm"),
        (&["--input-dist", "gauss"], "is not a distribution of lengths"),
    ] {
        let done = run("vb-gen", args, "");
        assert!(done.code == 2 && done.stderr.contains(want), "{args:?}: {}", done.stderr);
    }
}
