import { call } from "./api.js";
import { count, seconds } from "./format.js";
import { element } from "./element.js";

const EVERY_MS = 500;

/** A job's progress as a line, a bar and a way to cancel it. */
export class JobProgress {
  constructor(name) {
    this.name = name;
    this.stage = element("strong");
    this.figures = element("span", { className: "soft" });
    this.bar = element("progress", { ariaLabel: name });
    this.cancel = element("button", { type: "button", className: "quiet" }, "Cancel");
    this.element = element("div", { className: "running", hidden: true },
      element("div", { className: "row between" }, this.stage, this.figures), this.bar, this.cancel);
    this.job = null;
    this.cancel.addEventListener("click", async () => {
      this.cancel.disabled = true;
      await call("DELETE", `v1/admin/jobs/${this.job}`).catch(() => null); // the next look says what became of it
      this.cancel.disabled = false;
    });
  }

  /** Watch a job until it is over, while `goesOn` says so; the job as it is then. */
  async watch(id, goesOn = () => true) {
    this.job = id;
    this.element.hidden = false;
    try {
      for (;;) {
        const job = await call("GET", `v1/admin/jobs/${id}`);
        if (job.state !== "running" || !goesOn()) return job;
        this.#show(job);
        await new Promise((resolve) => { setTimeout(resolve, EVERY_MS); });
      }
    } finally {
      this.element.hidden = true;
    }
  }

  #show({ done, total, eta_s: eta }) {
    this.stage.textContent = `${this.name} …`;
    const left = eta === null ? "" : `, ${seconds(Math.max(1, eta))} left`;
    this.figures.textContent = total ? `${count(done)} of ${count(total)}${left}` : "";
    if (total) {
      this.bar.max = total;
      this.bar.value = done;
    } else {
      this.bar.removeAttribute("value");
    }
  }
}
