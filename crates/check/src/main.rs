//! The command `loopwright-check`.

fn main() -> anyhow::Result<()> {
    let paths = std::env::args().skip(1).map(Into::into).collect();
    let options = loopwright_check::options::Options { paths, ..Default::default() };
    let analysis = loopwright_check::analyse(&options, &loopwright_check::progress::Silent)?;
    for note in &analysis.notes {
        eprintln!("{note:?}");
    }
    println!("{}", serde_json::to_string_pretty(&analysis.findings)?);
    Ok(())
}
