// Pictures that were drawn here, which the browser keeps if it can.

const promised = (asked) =>
  new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });

export class Gallery {
  #database = null;
  keeps = true; // or they are gone when the page is closed
  pictures = []; // { id, model, title, about, file }, by ids that are their times, the newest first

  async open() {
    const asked = indexedDB.open("smalti");
    asked.onupgradeneeded = () => asked.result.createObjectStore("pictures", { keyPath: "id" });
    await this.#try(async () => {
      this.#database = await promised(asked);
      this.pictures = (await promised(this.#store("readonly").getAll())).reverse();
    });
  }

  async add(picture) {
    this.pictures.unshift(picture);
    await this.#try(() => promised(this.#store("readwrite").add(picture)));
  }

  async remove(picture) {
    this.pictures = this.pictures.filter((one) => one !== picture);
    await this.#try(() => promised(this.#store("readwrite").delete(picture.id)));
  }

  #store(mode) {
    return this.#database.transaction("pictures", mode).objectStore("pictures");
  }

  async #try(act) {
    try {
      await act();
    } catch {
      this.keeps = false; // private windows, a full disk
    }
  }
}
