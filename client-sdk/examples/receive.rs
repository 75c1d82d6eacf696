//! Receives for ever into a folder: `cargo run --example receive HOME INTO`.

use axis_client::{Client, Error, ReceiveOptions, quiet};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [home, into] = arguments.as_slice() else { return Err("HOME INTO".into()) };

    let client = Client::connect(home).await?;
    let mut deliveries = client.receive(ReceiveOptions::following()).await?;
    while let Some(next) = deliveries.next().await {
        let received = match next {
            Ok(received) => received,
            // one bad delivery does not stop the others; somebody should look at it
            Err(error @ (Error::Verification(_) | Error::MailboxGap { .. })) => {
                eprintln!("{error}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // verified already; it may have come before, so saving is safe to repeat
        let saved = received.save(into.as_ref(), &quiet).await?;
        println!("{} from {}: {}", received.metadata().subject, received.sender(), saved.folder.display());
        received.ack("").await?;
    }
    Ok(())
}
