// The site's search runs in a worker. Browsers refuse workers to pages that were opened from a file, so a
// hidden frame runs the same script in its place. The theme looks for this class by name.
if (location.protocol === "file:") {
  class IFrameWorker extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;

      const load = (url) =>
        new Promise((resolve, reject) => {
          const script = this.inside.document.createElement("script");
          script.src = new URL(url, document.baseURI);
          script.onload = resolve;
          script.onerror = reject;
          this.inside.document.body.append(script);
        });
      this.inside.importScripts = (...urls) =>
        urls.reduce((before, url) => before.then(() => load(url)), Promise.resolve());
      // what the script posts comes out here, in the page
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.ready = load(address);
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  }
  window.IFrameWorker = window.Worker = IFrameWorker;
}
