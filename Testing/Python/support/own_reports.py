"""Six synthetic reports in own words (no patient), with the status of each organ of anatomy36 that they mention."""

OWN_REPORTS = [
    (
        "CT THORAX WITH IV CONTRAST\n"
        "Indication: breathlessness, ?ILD.\n"
        "Findings:\n"
        "Subpleural reticulation with honeycombing is seen in both lung bases. No ground glass. The airways "
        "are of normal calibre and the trachea is central. The heart is not enlarged; a trace of pericardial "
        "fluid is present. Three-vessel coronary calcification. The descending aorta measures 28 mm. The "
        "oesophagus is mildly patulous. Upper abdomen: the visualised liver and spleen are unremarkable. "
        "There is a 14 mm nodule in the left adrenal. Wedge deformity of T8, chronic in appearance.\n"
        "Conclusion:\n"
        "1. UIP pattern fibrosis.\n"
        "2. Left adrenal nodule, indeterminate, ?adenoma.\n",
        {
            "lung": "abnormal",
            "trachea": "normal",
            "heart": "abnormal",
            "aorta": "uncertain",
            "esophagus": "abnormal",
            "liver": "normal",
            "spleen": "normal",
            "adrenal gland": "abnormal",
            "thoracic vertebrae": "abnormal",
        },
    ),
    (
        "EXAM: CT abdomen/pelvis\n"
        "LIVER: 9 mm hypervascular focus in segment IVb, probably a flash-filling haemangioma. No biliary "
        "dilatation.\n"
        "GALLBLADDER: Contracted, no stones.\n"
        "PANCREAS: Fatty atrophy of the tail.\n"
        "SPLEEN: 13.5 cm, mildly enlarged.\n"
        "KIDNEYS: No stones. No hydronephrosis.\n"
        "ADRENALS: Normal.\n"
        "BOWEL: Sigmoid diverticula without inflammation. Small bowel loops are not dilated.\n"
        "BLADDER: Underdistended.\n"
        "BONES: Grade 1 spondylolisthesis of L4 on L5. Sacrum intact.\n"
        "VESSELS: Patent portal vein. Infrarenal aortic aneurysm, 3.4 cm. IVC filter in situ.\n"
        "IMPRESSION: AAA. Splenomegaly.\n",
        {
            "liver": "uncertain",
            "gallbladder": "abnormal",
            "pancreas": "abnormal",
            "spleen": "abnormal",
            "kidney": "normal",
            "adrenal gland": "normal",
            "large bowel": "abnormal",
            "small bowel": "normal",
            "bladder": "uncertain",
            "lumbar vertebrae": "abnormal",
            "sacrum": "normal",
            "portal vein": "normal",
            "aorta": "abnormal",
            "inferior vena cava": "abnormal",
        },
    ),
    (
        "Trachea and both main bronchi are open. No occlusive pathology is detected in the trachea. "
        "Mediastinal main vascular structures and heart contour are natural. Pericardial effusion was not "
        "observed. Calibration of thoracic aorta is natural. In the examination of both lung parenchyma, a "
        "few millimetric nodules were observed, the largest 4 mm in the middle lobe. Thoracic oesophagus "
        "calibration was normal. In the upper abdominal sections, there are no space-occupying lesions in the"
        " liver. Bilateral adrenal glands were normal. Degenerative spur formations are present in the "
        "vertebral corpus corners.\n",
        {
            "trachea": "normal",
            "heart": "normal",
            "aorta": "normal",
            "lung": "abnormal",
            "esophagus": "normal",
            "liver": "normal",
            "adrenal gland": "normal",
            "cervical vertebrae": "abnormal",
            "thoracic vertebrae": "abnormal",
            "lumbar vertebrae": "abnormal",
        },
    ),
    (
        "FINDINGS: Status post right hemicolectomy with patent ileocolic anastomosis. The stomach is "
        "distended with debris. Duodenal sweep unremarkable. Interval resolution of the previously noted "
        "splenic collection. Left kidney absent, compensatory hypertrophy of the right kidney. Uterus normal."
        " Urinary bladder wall is diffusely thickened. Bilateral avascular necrosis of the femoral heads. "
        "Mild atherosclerosis of the common iliac arteries. No pleural effusion.\n"
        "IMPRESSION: Cystitis cannot be excluded. No bowel obstruction.\n",
        {
            "large bowel": "abnormal",
            "small bowel": "normal",
            "stomach": "abnormal",
            "duodenum": "normal",
            "spleen": "normal",
            "kidney": "abnormal",
            "bladder": "abnormal",
            "femur": "abnormal",
            "iliac artery": "abnormal",
            "lung": "normal",
        },
    ),
    (
        "TRAUMA CT. There are fractures of the left 3rd through 6th ribs with a small left haemothorax. Left "
        "scapula body fracture. Right clavicle intact. Grade III laceration of the spleen with perisplenic "
        "blood; liver, pancreas, kidneys are intact. No aortic injury. No free air. L1 and L2 transverse "
        "process fractures on the left. Pelvis: fracture through the left acetabulum; sacral ala intact; "
        "femoral necks are intact. Brain: no haemorrhage.\n",
        {
            "rib": "abnormal",
            "lung": "abnormal",
            "scapula": "abnormal",
            "clavicle": "normal",
            "spleen": "abnormal",
            "liver": "normal",
            "pancreas": "normal",
            "kidney": "normal",
            "aorta": "normal",
            "lumbar vertebrae": "abnormal",
            "hip joint": "abnormal",
            "sacrum": "normal",
            "femur": "normal",
            "brain": "normal",
        },
    ),
    (
        "Indication: pancreatitis follow up\n"
        "Report:\n"
        "Known necrotic pancreatic tail collection has decreased to 4 cm. The splenic vein is attenuated but "
        "patent. Gastric wall thickening along the greater curve is presumably reactive. Liver is diffusely "
        "low in attenuation in keeping with steatosis. CBD stent in position, the gallbladder has been "
        "removed. Both kidneys enhance symmetrically. Basal atelectasis bilaterally, effusions have resolved."
        " Heart size within normal limits. The right psoas is asymmetrically bulky, a collection there is not"
        " excluded. Degenerate hips.\n",
        {
            "pancreas": "abnormal",
            "portal vein": "abnormal",
            "stomach": "abnormal",
            "liver": "abnormal",
            "gallbladder": "abnormal",
            "kidney": "normal",
            "lung": "abnormal",
            "heart": "normal",
            "iliopsoas muscle": "abnormal",
            "hip joint": "abnormal",
            "femur": "abnormal",
        },
    ),
]
