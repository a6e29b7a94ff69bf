/** Open a window; when it closes, the keyboard goes on where it was, or at the card whose parts were replaced since. */
export function openDialog(dialog) {
  const opener = document.activeElement;
  const card = opener?.closest(".card");
  dialog.addEventListener("close", () => {
    if (card && !opener.isConnected) card.querySelector("h3").focus({ preventScroll: true });
  }, { once: true });
  dialog.showModal();
}

for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
