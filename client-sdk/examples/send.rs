//! Sends one file: `cargo run --example send HOME FROM TO FILE`.

use axis_client::{Client, Error, Outgoing, Progress};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [home, from, to, file] = arguments.as_slice() else { return Err("HOME FROM TO FILE".into()) };

    let client = Client::connect(home).await?;
    // what a crash of this program left behind is sent first, the same bytes
    for (envelope_id, outcome) in client.flush_outbox().await? {
        println!("{envelope_id} from before: {outcome:?}");
    }

    let outgoing = Outgoing::new(from.parse()?, "Về việc thử nghiệm").to(to.parse()?).file(file);
    let watch = |progress: Progress<'_>| eprint!("\r{} of {} bytes", progress.done, progress.total);
    match client.send(outgoing, &watch).await {
        Ok(sent) => println!("\naccepted as record {}: {}", sent.sequence, sent.envelope_id),
        Err(Error::Refused(refused)) => {
            println!("\nrefused, nothing was sent: {refused}");
            for violation in &refused.violations {
                println!("  {}: {}", violation.field, violation.message);
            }
        }
        Err(Error::Pending { envelope_id, source }) => {
            println!("\n{envelope_id} is safe in the outbox, to be sent again: {source}");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
