// All texts of the page: English, German, Chinese. `{1}` stands for what a message of the node says there.
export const LANGUAGES = { en: "English", de: "Deutsch", zh: "中文" };

export const TEXTS = {
  notice: ["Research use only. Not a medical device.", "Nur für die Forschung. Kein Medizinprodukt.", "仅供研究使用，非医疗器械。"],
  language: ["Language", "Sprache", "语言"],
  details: ["Details", "Einzelheiten", "详情"],
  notices: ["notices", "Hinweise", "通知"],
  registration: ["Registration", "Registrierung", "配准"],
  calibration: ["Calibration", "Kalibrierung", "校准"],
  reconnect: ["Reconnect", "Neu verbinden", "重新连接"],
  reconnectTitle: [
    "Close the connections to the sources and open them again",
    "Verbindungen zu den Quellen schließen und neu öffnen",
    "断开并重新连接各数据源",
  ],
  sound: ["Sound on loss and return", "Ton bei Verlust und Rückkehr", "丢失与恢复时发声"],
  soundOn: ["Sound on", "Ton an", "声音开"],
  soundOff: ["Sound off", "Ton aus", "声音关"],
  left: ["LEFT", "LINKS", "左侧"],
  right: ["RIGHT", "RECHTS", "右侧"],
  both: ["BOTH SIDES", "BEIDE SEITEN", "双侧"],
  moving: ["C-arm moving", "C-Bogen bewegt sich", "C 臂移动中"],
  noConnection: ["No connection to the node.", "Keine Verbindung zum Knoten.", "与节点无连接。"],
  nothingCurrent: ["Nothing on this page is current.", "Nichts auf dieser Seite ist aktuell.", "本页内容均已过时。"],
  waiting: ["Waiting until the C-arm stands still", "Wartet, bis der C-Bogen stillsteht", "等待 C 臂静止"],
  live: ["LIVE", "LIVE", "实时"],
  held: ["HELD", "GEHALTEN", "保留画面"],
  old: ["{1} s old", "{1} s alt", "{1} 秒前"],
  notShown: ["{1} not shown", "{1} nicht gezeigt", "{1} 未显示"],
  volume: ["Volume", "Volumen", "体积"],
  noVolumeCt: ["The CT is being prepared", "Das CT wird vorbereitet", "正在准备 CT"],
  noVolumeXrays: ["No volume yet: the first X-rays make it", "Noch kein Volumen: die ersten Bilder ergeben es", "尚无体积：由首批 X 光重建"],
  noVolumeWorker: ["No volume: the reconstruction does not run", "Kein Volumen: die Rekonstruktion läuft nicht", "无体积：重建程序未运行"],
  noVolumeBones: ["No slices: each bone has a volume of its own", "Keine Schichten: jeder Knochen hat ein eigenes Volumen", "无切片：每块骨骼有各自的体积"],
  axial: ["axial", "axial", "横断面"],
  coronal: ["coronal", "koronal", "冠状面"],
  sagittal: ["sagittal", "sagittal", "矢状面"],
  slice: ["slice {1}", "Schicht {1}", "切片 {1}"],
  bone3d: ["bone in 3-D", "Knochen in 3-D", "三维骨骼"],
  layout: ["Layout", "Anordnung", "布局"],
  xrays: ["X-rays", "Röntgen", "X 光"],
  full: ["Full screen", "Vollbild", "全屏"],
  window: ["Grey values", "Grauwerte", "窗宽窗位"],
  bone: ["Bone", "Knochen", "骨窗"],
  soft: ["Soft tissue", "Weichteile", "软组织窗"],
  lung: ["Lung", "Lunge", "肺窗"],
  follow: ["Follow tool", "Werkzeug folgen", "跟随工具"],
  followTitle: ["The slices follow the tool's tip", "Die Schichten folgen der Werkzeugspitze", "切片跟随工具尖端"],
  measure: ["Measure", "Messen", "测量"],
  measureTitle: [
    "Distance between two clicks on slices; Delete takes all away",
    "Abstand zweier Klicks auf Schichten; Entf löscht alle",
    "在切片上点击两点测距；Delete 键清除",
  ],
  measureFrom: ["Measure: click the first point. Esc: stop", "Messen: ersten Punkt anklicken. Esc: Ende", "测量：点击第一点，Esc 取消"],
  measureTo: ["Measure: click the second point. Esc: stop", "Messen: zweiten Punkt anklicken. Esc: Ende", "测量：点击第二点，Esc 取消"],
  panel: ["Panel", "Leiste", "面板"],

  plan: ["Plan", "Plan", "计划"],
  plans: ["Plans", "Pläne", "计划"],
  noPlan: ["No plan is aimed at.", "Kein Plan ist das Ziel.", "没有激活的计划。"],
  lateral: ["Lateral", "Seitlich", "侧向"],
  angle: ["Angle", "Winkel", "角度"],
  depth: ["To target", "Zum Ziel", "距靶点"],
  beyond: ["Beyond target", "Hinter dem Ziel", "已超过靶点"],
  ahead: ["Look ahead", "Vorausschau", "前视"],
  viewUnknown: ["C-arm: view unknown", "C-Bogen: Sicht unbekannt", "C 臂：视角未知"],
  viewThere: ["C-arm along the plan: {1}", "C-Bogen entlang des Plans: {1}", "C 臂已沿计划：{1}"],
  viewTurn: ["Turn the C-arm {1}, to {2}", "C-Bogen {1} drehen, bis {2}", "C 臂转 {1}，至 {2}"],
  cranial: ["cranial", "kranial", "向头侧"],
  caudal: ["caudal", "kaudal", "向足侧"],
  planAim: ["Aim at this plan", "Diesen Plan anzielen", "激活此计划"],
  planStop: ["Stop aiming at this plan", "Diesen Plan nicht mehr anzielen", "停用此计划"],
  planRemove: ["Remove", "Entfernen", "删除"],
  planReally: ["Remove?", "Entfernen?", "确认删除？"],
  planNew: ["New plan", "Neuer Plan", "新计划"],
  planFile: ["From file", "Aus Datei", "从文件"],
  planName: ["Name of the plan", "Name des Plans", "计划名称"],
  fileLarge: ["{1} is too large for plans", "{1} ist zu groß für Pläne", "{1} 文件过大"],
  pickEntry: ["Click the entry on a slice. Esc: stop", "Eintritt auf einer Schicht anklicken. Esc: Ende", "在切片上点击入点，Esc 取消"],
  pickTarget: ["Click the target on a slice. Esc: stop", "Ziel auf einer Schicht anklicken. Esc: Ende", "在切片上点击靶点，Esc 取消"],
  show: ["Show", "Zeigen", "显示"],
  save: ["Save", "Speichern", "保存"],
  cancel: ["Cancel", "Abbrechen", "取消"],
  tools: ["Instruments", "Instrumente", "器械"],
  recording: ["Recording", "Aufnahme", "录制"],
  record: ["● Record", "● Aufnehmen", "● 录制"],
  recordStop: ["■ Stop recording", "■ Aufnahme beenden", "■ 停止录制"],
  screenshot: ["Screenshot", "Bildschirmfoto", "截图"],

  noWebgl: [
    "This browser has no WebGL2: slices and bone cannot be shown.",
    "Dieser Browser hat kein WebGL2: Schichten und Knochen können nicht gezeigt werden.",
    "此浏览器不支持 WebGL2，无法显示切片和骨骼。",
  ],
  frames: ["frames/s", "Bilder/s", "帧/秒"],
  frameToPose: ["frame → pose ms", "Bild → Lage ms", "帧→位姿 毫秒"],
  overlay: ["overlay ms", "Einblendung ms", "叠加 毫秒"],
  sigma: ["± mm", "± mm", "± 毫米"],

  // What the state is called, what one may do with it.
  usable: ["Ready to navigate", "Bereit zur Navigation", "可以导航"],
  expected: ["Expected error {1} mm", "Erwarteter Fehler {1} mm", "预计误差 {1} 毫米"],
  stateVALID: ["VALID", "GÜLTIG", "有效"],
  stateDEGRADED: ["DEGRADED", "UNSICHER", "受限"],
  stateINVALID: ["INVALID", "UNGÜLTIG", "无效"],
  seeDetails: ["See the details", "Siehe Einzelheiten", "请查看详情"],

  // Causes in plain words, and what to do about them; advice.js says which message is which.
  causeSilent: ["No connection to the node", "Keine Verbindung zum Knoten", "与节点无连接"],
  adviceSilent: ["Do not navigate; is it running?", "Nicht navigieren; läuft er?", "停止导航，检查节点是否运行"],
  causePatientHidden: ["Patient marker not seen", "Patientenmarker nicht sichtbar", "看不到患者标记"],
  advicePatientHidden: ["Clear the tracker's line of sight", "Sichtlinie zum Tracker freimachen", "清除跟踪器视线遮挡"],
  causePatientBack: ["Patient marker was hidden", "Patientenmarker war verdeckt", "患者标记曾被遮挡"],
  advicePatientBack: ["Take an X-ray to confirm", "Zur Bestätigung röntgen", "请拍一张 X 光确认"],
  causePatientMoved: ["Patient marker has moved", "Patientenmarker hat sich bewegt", "患者标记已移动"],
  advicePatientMoved: ["Fix the marker, then take X-rays", "Marker befestigen, dann röntgen", "固定标记后再拍 X 光"],
  causeToolHidden: ["Tool not seen by the tracker", "Werkzeug nicht sichtbar", "跟踪器看不到工具"],
  adviceToolHidden: ["Turn its marker to the tracker", "Marker zum Tracker drehen", "将标记转向跟踪器"],
  causeNoPose: ["No pose from the tracker", "Keine Lage vom Tracker", "跟踪器无位姿"],
  adviceNoPose: ["Check the tracker's connection", "Verbindung zum Tracker prüfen", "检查跟踪器连接"],
  causeRepeats: ["The tracker repeats itself", "Der Tracker wiederholt sich", "跟踪器数据重复"],
  adviceRepeats: ["Restart the tracker's program", "Programm des Trackers neu starten", "重启跟踪器程序"],
  causeNoneYet: ["No X-ray registered yet", "Noch kein Röntgenbild registriert", "尚无 X 光配准"],
  adviceNoneYet: ["Take X-rays from two sides", "Aus zwei Richtungen röntgen", "从两个方向拍 X 光"],
  causeConfirming: ["Confirming: {1} of {2} X-rays", "Bestätigung: {1} von {2} Bildern", "确认中：{1}/{2} 张"],
  adviceConfirming: ["Take more X-rays", "Weitere Röntgenbilder aufnehmen", "继续拍 X 光"],
  causeAge: ["No X-ray for {1} s", "Seit {1} s kein Röntgenbild", "已 {1} 秒无 X 光"],
  adviceAge: ["Take an X-ray", "Ein Röntgenbild aufnehmen", "请拍一张 X 光"],
  causeError: ["Expected error {1} mm", "Erwarteter Fehler {1} mm", "预计误差 {1} 毫米"],
  adviceError: ["Take X-rays from another side", "Aus anderer Richtung röntgen", "换方向拍 X 光"],
  causeErrorOver: ["Error {1} mm, limit {2}", "Fehler {1} mm, Grenze {2}", "误差 {1} 毫米，上限 {2}"],
  adviceErrorOver: ["Take X-rays from another side", "Aus anderer Richtung röntgen", "换方向拍 X 光"],
  causeFew: ["Volume made of a few X-rays", "Volumen aus wenigen Bildern", "体积由少量 X 光重建"],
  adviceFew: ["Judge with care; more sides help", "Mit Vorsicht; mehr Richtungen helfen", "谨慎判断，可增加方向"],
  causeMatch: ["X-ray and volume do not match", "Bild und Volumen passen nicht", "X 光与体积不符"],
  adviceMatch: ["Check patient, field and collimator", "Patient, Feld und Blende prüfen", "检查患者、视野和准直器"],
  causeLikeness: ["Likeness {1}, VALID from {2}", "Ähnlichkeit {1}, nötig {2}", "相似度 {1}，需 {2}"],
  adviceLikeness: ["Check patient, field and collimator", "Patient, Feld und Blende prüfen", "检查患者、视野和准直器"],
  causeResidual: ["Residual {1}, limit {2}", "Restfehler {1}, Grenze {2}", "残差 {1}，上限 {2}"],
  adviceResidual: ["Check patient, field and collimator", "Patient, Feld und Blende prüfen", "检查患者、视野和准直器"],
  causeStep: ["Still moving {1} mm, limit {2}", "Noch {1} mm Bewegung, Grenze {2}", "仍移动 {1} 毫米，上限 {2}"],
  adviceStep: ["Hold still; take another X-ray", "Stillhalten, erneut röntgen", "保持静止再拍"],
  causeApart: ["Views {1} mm apart, limit {2}", "Abweichung {1} mm, Grenze {2}", "图像相差 {1} 毫米，上限 {2}"],
  adviceApart: ["Take both anew, without a pause", "Beide neu, ohne Pause aufnehmen", "两张连续重拍"],
  causeContradict: ["X-ray contradicts the tracker", "Bild widerspricht dem Tracker", "X 光与跟踪器矛盾"],
  adviceContradict: ["Has a marker moved? Take X-rays", "Marker bewegt? Neu röntgen", "标记是否移动？重拍 X 光"],
  causeExchanged: ["Markers are exchanged", "Marker sind vertauscht", "标记互换"],
  adviceExchanged: ["Check which is which; confirm", "Zuordnung prüfen, bestätigen", "核对后确认"],
  causeDoubt: ["The tool is in doubt", "Werkzeug ist zweifelhaft", "工具存疑"],
  adviceDoubt: ["Hold it still in the tracker's view", "Im Blick des Trackers stillhalten", "在视野内保持静止"],
  causeRejected: ["Registration was rejected", "Registrierung wurde verworfen", "配准已被拒绝"],
  adviceRejected: ["Take X-rays to register again", "Neu röntgen", "重新拍 X 光配准"],
  causeLost: ["Registration lost", "Registrierung verloren", "配准丢失"],
  adviceLost: ["Take X-rays from two sides", "Aus zwei Richtungen röntgen", "从两个方向拍 X 光"],
  causeSource: ["A source is disconnected", "Eine Quelle ist getrennt", "数据源断开"],
  adviceSource: ["Check cable and program", "Kabel und Programm prüfen", "检查线缆和程序"],
  causeMotion: ["C-arm moved during the X-ray", "C-Bogen bewegte sich im Bild", "拍摄时 C 臂移动"],
  adviceMotion: ["Hold it still; take another", "Stillhalten und wiederholen", "保持静止重拍"],
  causeGeometry: ["C-arm not as configured", "C-Bogen anders als angegeben", "C 臂与设置不符"],
  adviceGeometry: ["Check zoom; calibrate the C-arm", "Zoom prüfen; C-Bogen kalibrieren", "检查变焦；校准 C 臂"],
  causeInverted: ["X-ray looks inverted", "Bild wirkt invertiert", "X 光疑似反相"],
  adviceInverted: ["Send detector counts: bone dark", "Rohwerte senden: Knochen dunkel", "发送原始计数：骨为暗"],
  causeClock: ["A clock was set", "Eine Uhr wurde gestellt", "时钟被调整"],
  adviceClock: ["Take an X-ray to confirm", "Zur Bestätigung röntgen", "请拍一张 X 光确认"],
  causeCovered: ["{1} % of the X-ray is covered", "{1} % des Bildes sind verdeckt", "X 光 {1}% 被遮挡"],
  adviceCovered: ["Open the collimator", "Blende öffnen", "打开准直器"],
  causeNoVolume: ["No volume yet: {1} of {2} X-rays", "Noch kein Volumen: {1} von {2}", "尚无体积：{1}/{2} 张"],
  adviceNoVolume: ["Take X-rays from other sides", "Aus anderen Richtungen röntgen", "换方向拍 X 光"],
  causeUnusable: ["X-rays cannot be used", "Bilder nicht verwendbar", "X 光不可用"],
  adviceUnusable: ["Check its clock; see the details", "Uhr prüfen; siehe Einzelheiten", "检查时钟，见详情"],
  causeOpen: ["The X-ray leaves the place open", "Das Bild lässt die Lage offen", "X 光无法定位"],
  adviceOpen: ["Take one from another side", "Aus anderer Richtung röntgen", "换方向再拍"],
  causeSettling: ["Registration has not settled", "Registrierung noch unruhig", "配准尚未稳定"],
  adviceSettling: ["Hold still; take another X-ray", "Stillhalten, erneut röntgen", "保持静止再拍"],
};

// Texts of pages of other packages, such as calibration.
export function addTexts(texts) {
  Object.assign(TEXTS, texts);
}

const ORDER = Object.keys(LANGUAGES);
let language = "en";

export function setLanguage(name) {
  language = ORDER.includes(name) ? name : "en";
  document.documentElement.lang = language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = say(node.dataset.text);
  for (const node of document.querySelectorAll("[data-title]")) node.title = say(node.dataset.title);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", say(node.dataset.label));
}

// The first language of the browser that there is a table for.
export function ofBrowser() {
  return (navigator.languages ?? []).map((each) => each.slice(0, 2)).find((each) => ORDER.includes(each)) ?? "en";
}

export function say(key, ...values) {
  const text = TEXTS[key]?.[ORDER.indexOf(language)] ?? key;
  return text.replace(/\{(\d)\}/g, (_, number) => values[number - 1] ?? "–");
}
