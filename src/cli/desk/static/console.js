// Keeps the parts marked data-live as new as the server has them. Every page is complete without it.
"use strict";

const EVERY_MS = 3000;
const pause = document.getElementById("pause");
let isPaused = false;

pause.hidden = false;
pause.addEventListener("click", () => {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", String(isPaused));
  pause.textContent = isPaused ? "Updates are paused" : "Pause updates";
});

async function renew() {
  if (isPaused || document.hidden) return;
  const answer = await fetch(location.href, { headers: { "X-Live": "1" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const newer = page.getElementById(part.id);
    // Nobody's place in a table is taken away, nor a table that is open closed.
    const isInUse = part.contains(document.activeElement) || part.querySelector("details[open]");
    if (newer && !isInUse && newer.innerHTML !== part.innerHTML) {
      part.replaceChildren(...document.importNode(newer, true).childNodes);
    }
  }
}

async function keepNew() {
  try {
    await renew();
    document.body.removeAttribute("data-gone");
  } catch {
    document.body.setAttribute("data-gone", "");
  }
  setTimeout(keepNew, EVERY_MS);
}

setTimeout(keepNew, EVERY_MS);
