// Where images come from: files, drop, paste, a folder, a webcam or a video file.

const isImage = (file) => file.type.startsWith("image/");
const isVideo = (file) => file.type.startsWith("video/");

/** Call `onFiles` with the files of inputs, drops and pastes. */
export function listen(elements, onFiles) {
  for (const input of [elements.file, elements.folder]) {
    input.addEventListener("change", () => {
      if (input.files.length) onFiles([...input.files]);
      input.value = "";
    });
  }
  const { drop } = elements;
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) onFiles([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) onFiles(files);
  });
}

/** Images in order of name, or else the first video; neither: an Error. */
export function sortFiles(files) {
  const images = files.filter(isImage).sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
  const video = files.find(isVideo);
  if (!images.length && !video) throw new Error("No image or video among these files. Choose JPEG, PNG or WebP images.");
  return { images, video: images.length ? null : video };
}

/** A playing video element of the webcam. */
export async function openWebcam() {
  if (!navigator.mediaDevices) throw new Error("A webcam needs a page from localhost or over HTTPS.");
  const video = document.createElement("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    throw new Error(`The webcam cannot be used (${error.name}). Allow it in the browser, or connect one.`);
  }
  await video.play();
  return video;
}

/** A playing video element of a video file. */
export async function openVideo(file) {
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(file);
  try {
    await video.play();
  } catch {
    URL.revokeObjectURL(video.src);
    throw new Error(`${file.name} cannot be played by this browser.`);
  }
  return video;
}

/** Stop the camera or the video, and free it. */
export function closeVideo(video) {
  video.pause();
  video.srcObject?.getTracks().forEach((track) => track.stop());
  if (video.src) URL.revokeObjectURL(video.src);
}
